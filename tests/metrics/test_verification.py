"""Losses that were recorded here (docs/results/fingerprints.csv): same work is called the same, other work is not."""

import csv
from pathlib import Path

import pytest
import yaml

from fourfold.composition import config_directory
from fourfold.metrics.verification import GROWTH, LENGTH, Agreement, agreement

RECORDED = Path(__file__).parents[2] / "docs" / "results" / "fingerprints.csv"
SAME = [
    "fp32 again", "fp32, two threads", "fp32, no oneDNN", "fp32, plain attention", "tf32 (imitated)", "fp16 (imitated)",
    "bf16", "bf16, two threads", "bf16, no oneDNN", "bf16 (imitated)", "fp8 (imitated)",
]  # fmt: skip
MISTAKES = ["another seed", "learning rate x 1.01", "a layer left out", "batches moved by one"]


def recorded() -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for line in csv.DictReader(RECORDED.read_text().splitlines()):
        if line["loss0"]:
            losses = [float(line[f"loss{step}"]) for step in range(LENGTH)]
            found.setdefault(line["workload"], {})[line["run"]] = losses
    return found


RUNS = recorded()
USUAL = {"rounding_growth": GROWTH, "rounding": 1.0}
# One update carries rounding further than that rate does; a sampler makes its own data, so there is no batch to move.
UNSEEN = {"learning rate x 1.01": {"resnet152"}, "batches moved by one": {"gflownet"}}


def rounding(workload: str) -> tuple[float, float]:
    """(growth, rounding): what the benchmark's and the method's own files say, the larger of both."""
    benchmark, *words = workload.split()
    paths = [f"benchmark/{benchmark}", *(word.replace("=", "/") for word in words)]
    nodes = [yaml.safe_load((config_directory() / f"{path}.yaml").read_text()) for path in paths]
    return tuple(max(node.get(key, usual) for node in nodes) for key, usual in USUAL.items())  # type: ignore[return-value]


def verdicts(run: str, against: str, precisions: tuple[str, str]) -> dict[str, Agreement]:
    """Of every workload that has both."""
    both = {workload: runs for workload, runs in RUNS.items() if {run, against} <= set(runs)}
    return {
        workload: agreement(runs[against], runs[run], precisions, *rounding(workload))
        for workload, runs in both.items()
    }


@pytest.mark.parametrize("run", SAME)
def test_the_same_work_with_other_kernels_and_precisions_passes(run: str) -> None:
    precision = run.split(",")[0].split()[0]
    for against in ("fp32", "bf16") if precision == "bf16" and run != "bf16" else ("fp32",):
        found = verdicts(run, against, (against, precision))
        assert len(found) == 29
        assert not {name: str(one) for name, one in found.items() if one.same is False}
        compared = {name for name, one in found.items() if one.same}
        assert set(found) - compared <= ({"diffusion", "pythia method=rlhf"} if precision == "fp8" else set())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_caught_in_fp32(mistake: str) -> None:
    found = verdicts(f"fp32, {mistake}", "fp32", ("fp32", "fp32"))
    assert len(found) >= 19
    assert {name for name, one in found.items() if one.same is not False} == UNSEEN.get(mistake, set())


def test_in_bf16_a_learning_rate_that_is_1_percent_off_cannot_be_seen_and_most_other_mistakes_can() -> None:
    caught = {
        mistake: [one.same is False for one in verdicts(f"bf16, {mistake}", "bf16", ("bf16", "bf16")).values()]
        for mistake in MISTAKES
    }
    shares = {mistake: sum(found) / len(found) for mistake, found in caught.items()}
    assert shares["learning rate x 1.01"] < 0.2
    assert shares["another seed"] > 0.8
    assert shares["batches moved by one"] > 0.7


def test_one_tolerance_for_all_steps_would_miss_or_cry_wolf() -> None:
    """What the growth is for: the largest distance of the same work is beyond the smallest one of a mistake."""
    flat = 1.0
    base = {name: runs["fp32"] for name, runs in RUNS.items()}
    wolf = agreement(base["resnet"], RUNS["resnet"]["fp32, two threads"], ("fp32", "fp32"), flat)
    missed = agreement(base["opt"], RUNS["opt"]["fp32, learning rate x 1.01"], ("fp32", "fp32"), flat)
    assert wolf.apart is not None
    assert missed.apart is not None
    assert wolf.apart > 2 * missed.apart
