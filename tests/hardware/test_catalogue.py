"""What every target of the catalogue must hold; a new YAML is tested by being there."""

import pytest

from fourfold.composition import compose, config_directory, plain
from fourfold.errors import Refused
from fourfold.hardware.catalogue import PRECISIONS, catalogue, recognises, targets_of

FOLDER = config_directory() / "hardware"
TARGETS = catalogue(FOLDER)
DEVICES = sorted(name for name, facts in TARGETS.items() if facts["match"] and not name.startswith("local/"))

# What the vendors' libraries call their devices.
CALLED = {
    "Tesla V100-SXM2-32GB": ["v100"],
    "Quadro RTX 8000": ["rtx8000"],
    "NVIDIA A100-SXM4-80GB": ["a100"],
    "NVIDIA A100-SXM4-40GB": ["a100_40gb"],
    "NVIDIA A100 80GB PCIe": ["a100_pcie"],
    "NVIDIA A100-PCIE-40GB": ["a100_40gb_pcie"],
    "NVIDIA L40S": ["l40s"],
    "NVIDIA H100 80GB HBM3": ["h100"],
    "NVIDIA H100 PCIe": ["h100_pcie"],
    "NVIDIA H200": ["h200"],
    "NVIDIA GH200 480GB": ["gh200"],
    "NVIDIA B200": ["b200"],
    "NVIDIA GB200": ["gb200"],
    "AMD Instinct MI100": ["mi100"],
    "AMD Instinct MI250X / MI250": ["mi250"],
    "AMD Instinct MI300X": ["mi300"],
    "AMD Instinct MI325X": ["mi325"],
    "AMD Instinct MI355X": ["mi355"],
    "Intel(R) Data Center GPU Max 1550": ["max1550"],
    "Intel(R) Arc(TM) Pro B70 Graphics": ["arc_b70"],
    "GAUDI2": ["gaudi2"],
    "GAUDI3": ["gaudi3"],
    "NVIDIA L40": [],
    "AMD Instinct MI300A": [],
    "NVIDIA H100 NVL": [],
}


@pytest.mark.parametrize("name", DEVICES)
class TestEveryDevice:
    def test_facts_are_complete_and_plausible(self, name: str) -> None:
        facts = TARGETS[name]
        assert 16e9 <= facts["memory"] <= 1e12
        assert 4e11 <= facts["bandwidth"] <= 2e13
        assert 75 <= facts["power"] <= 3000
        assert 5e9 <= facts["interconnect"]["node"] < facts["bandwidth"]
        assert facts["interconnect"]["network"] <= facts["interconnect"]["node"] * 2

    def test_peaks_are_of_what_is_offered_and_in_order(self, name: str) -> None:
        facts = TARGETS[name]
        peak = {key: value for key, value in facts["peak"].items() if value}
        offered = set(facts["offers"]) & set(PRECISIONS)
        assert set(peak) <= offered
        assert offered - set(peak) <= ({"fp32"} if facts["vendor"] == "habana" else set())  # which states none
        rising = [peak[key] for key in ("fp32", "tf32", "fp16", "fp8") if key in peak]
        assert rising == sorted(rising)
        if "bf16" in peak and "fp16" in peak:
            assert 0.5 <= peak["bf16"] / peak["fp16"] <= 1

    def test_peaks_are_dense(self, name: str) -> None:
        """Each step to a narrower tensor type about doubles the dense rate; a sparse figure would quadruple it."""
        peak = TARGETS[name]["peak"]
        for wide, narrow in (("tf32", "fp16"), ("fp16", "fp8")):
            if peak.get(wide) and peak.get(narrow):
                assert peak[narrow] / peak[wide] == pytest.approx(2, rel=0.05)

    def test_intensity_is_that_of_an_accelerator(self, name: str) -> None:
        """FLOP a byte at which compute and memory balance: tens to several hundreds for 16-bit products."""
        facts = TARGETS[name]
        best = max(facts["peak"].get("bf16") or 0, facts["peak"].get("fp16") or 0)
        assert 50 <= best / facts["bandwidth"] <= 700

    def test_it_asks_a_scheduler_for_its_devices(self, name: str) -> None:
        cell = plain(compose([f"hardware={name}", "hardware.devices=2", "hardware.nodes=3"]))
        request = cell["hardware"]["launcher"]
        assert request["gres"].endswith(":2")
        assert (request["nodes"], request["tasks_per_node"]) == (3, 2)

    def test_some_name_is_recognised_as_it(self, name: str) -> None:
        assert [name] in CALLED.values()


@pytest.mark.parametrize("called", CALLED)
def test_a_device_s_own_name_leads_to_one_target(called: str) -> None:
    assert [target for target in targets_of(called, FOLDER) if not target.startswith("local/")] == CALLED[called]


def test_names_are_compared_by_whole_words() -> None:
    assert recognises(["H200"], "NVIDIA H200")
    assert not recognises(["H200"], "NVIDIA GH200 480GB")
    assert recognises(["max 1550"], "Intel(R) Data Center GPU Max 1550")


def test_the_catalogue_reads_what_hydra_composes() -> None:
    for name in ("gb200", "a100_40gb_pcie", "mi325"):
        composed, own = plain(compose([f"hardware={name}"]))["hardware"], TARGETS[name]
        for key in ("memory", "bandwidth", "power", "peak", "interconnect", "match", "vendor"):
            assert own[key] == composed[key], (name, key)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["hardware=a100", "hardware.devices=2", "hardware.launcher.gres=gpu:a100:4"], "asks for 4 a node, but"),
        (["hardware=a100", "hardware.launcher.gres=gpu:h100:1"], "asks for another device than a100"),
        (["hardware=a100", "hardware.launcher.tasks_per_node=2"], "contradicts hardware.devices=1"),
        (["hardware=a100", "hardware.launcher.nodes=2"], "contradicts hardware.nodes=1"),
    ],
)
def test_a_request_that_contradicts_its_hardware_is_refused(words: list[str], what: str) -> None:
    with pytest.raises(Refused, match=what):
        compose(words)


@pytest.mark.parametrize(
    "gres", ["'gpu:2'", "'gpu:a100:2'", "'gpu:nvidia_a100_80gb:2'", "'gpu:a100:2,shard:1'", "null"]
)
def test_a_site_may_name_its_gres_as_it_likes(gres: str) -> None:
    compose(["hardware=a100", "hardware.devices=2", f"hardware.launcher.gres={gres}"])
