"""The life of a cell: what it leaves behind when it works, and when it does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold import errors, experiment
from fourfold.experience import Experience
from fourfold.metrics import figures
from fourfold.record import read, read_series
from learning import Bench, digits

Run = Callable[..., Any]


def last_accuracy(record: Any) -> float:
    after = max(entry["after"] for entry in record.evaluations)
    return float(np.mean([entry["value"] for entry in record.evaluations if entry["after"] == after]))


def test_a_cell_learns_and_leaves_a_record_that_says_everything(run: Run) -> None:
    record = run("benchmark=digits", "hardware=cpu")
    assert (record.state, record.evidence, record.reason) == (errors.DONE, "measured", None)
    assert last_accuracy(record) > 0.9
    assert read(record.folder) == record.__class__(**{k: v for k, v in vars(record).items() if k != "folder"})
    series = read_series(record.folder)
    steps = record.measurements["steps"]
    assert {len(values) for name, values in series.items() if not name.startswith("monitor.")} == {steps}
    assert {"input_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds"} <= series.keys()
    assert record.measurements["gradients_zeroed"] is True
    assert record.measurements["fingerprint"] == pytest.approx(series["loss"][:10].tolist())
    assert series["loss"][-10:].mean() < series["loss"][:10].mean()
    assert series["step_units"].sum() == record.measurements["units"]
    assert (series["step_seconds"] > 0).all()
    assert record.measurements["unit"] == "images"
    assert record.environment["libraries"]["torch"]
    assert record.axes == {
        "benchmark": "digits", "hardware": "cpu", "setting": "traditional", "method": "finetune", "rule": "backprop",
        "seed": 0,
    }  # fmt: skip


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(run: Run) -> None:
    words = ["benchmark=digits", "setting=class_incremental", "method=replay", "until.steps=40"]
    first, again, other = run(*words), run(*words), run(*words, "seed=1")
    losses = [read_series(record.folder)["loss"] for record in (first, again, other)]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.array_equal(losses[0], losses[2])


def test_replay_forgets_less_than_finetune_and_joint_is_above(run: Run) -> None:
    words = ["benchmark=digits", "setting=class_incremental", "until.steps=500"]
    accuracy = {name: last_accuracy(run(*words, f"method={name}")) for name in ("finetune", "replay", "joint")}
    assert accuracy["finetune"] < 0.35
    assert accuracy["replay"] > accuracy["finetune"] + 0.4
    assert accuracy["joint"] > 0.9


def test_bounds_are_marked(run: Run) -> None:
    assert run("benchmark=digits", "setting=class_incremental", "method=joint", "until.steps=5").oracle
    assert not run("benchmark=digits", "until.steps=5").oracle


def test_the_matrix_has_a_row_for_each_context_and_the_untrained_network(run: Run) -> None:
    record = run("benchmark=digits", "setting=task_incremental", "until.steps=10")
    assert [(e["after"], e["context"]) for e in record.evaluations] == [(a, c) for a in range(6) for c in range(5)]
    assert all(entry["masked"] == entry["value"] for entry in record.evaluations), "tasks are known, so masked anyway"


def test_hidden_contexts_are_judged_where_they_end_though_the_method_is_not_told(run: Run) -> None:
    record = run("benchmark=digits", "setting=continual")
    assert sorted({entry["after"] for entry in record.evaluations}) == [0, 1, 2, 3, 4, 5]
    assert record.measurements["stopped_by"] == "data"
    assert record.measurements["units"] == 1438, "each of digits' training samples once"


@pytest.mark.parametrize(
    ("batch", "steps"), [(12, [5, 10, 15, 20]), (50, [2, 3, 4, 5]), (128, [1, 1, 2, 2]), (300, [1, 1, 1, 1])]
)
def test_every_hidden_end_of_a_context_is_judged_whatever_the_batch(batch: int, steps: list[int]) -> None:
    """Contexts of 60, 58, 61, 59 and 62 samples: after the batch that holds a context's last one."""
    made = Bench("finetune", "continual", benchmark=digits(batch=batch), setting_values={"class_order": "natural"})
    found: list[tuple[int, int]] = []
    at = experiment.hidden_changes(
        made.stream, made.stream.phases[0], made.run, lambda after: found.append((made.run.meter.steps, after))
    )
    made.method.learn(Experience(made.stream, made.stream.phases[0], made.run, at), made.run)
    assert found == [(step, after) for after, step in enumerate(steps, start=1)]


def test_steps_are_shared_by_the_contexts(run: Run) -> None:
    record = run("benchmark=digits", "setting=class_incremental", "until.steps=25")
    contexts = read_series(record.folder)["context"]
    assert np.bincount(contexts).tolist() == [5, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("words", "stopped_by", "steps"),
    [
        (["until=epochs", "until.epochs=1"], "epochs", 45),
        (["until.steps=7"], "steps", 7),
        (["until=budget", "until.seconds=0.2"], "budget", None),
        (["until=steady", "until.interval=0.5", "until.seconds=30"], "steady", None),
    ],
)
def test_when_to_stop(run: Run, words: list[str], stopped_by: str, steps: int | None) -> None:
    record = run("benchmark=digits", *words)
    assert record.measurements["stopped_by"] == stopped_by
    assert steps is None or record.measurements["steps"] == steps


@pytest.mark.parametrize("method", ["inference", "random"])
def test_methods_that_do_not_learn_have_no_loss(run: Run, method: str) -> None:
    record = run("benchmark=digits", f"method={method}", "until.steps=5")
    assert record.state == errors.DONE
    assert np.isnan(read_series(record.folder)["loss"]).all()
    assert abs(last_accuracy(record) - 0.1) < 0.1


def test_a_kernel_counts_its_operations(run: Run) -> None:
    record = run("benchmark=matmul", "until.steps=3", "benchmark.model.n=64")
    assert record.measurements["units"] == 3 * 2 * 64**3
    assert record.evaluations == []


def test_an_absent_device_is_unavailable_and_nothing_serves_under_its_name(run: Run) -> None:
    record = run("benchmark=digits", "hardware=gaudi2")
    assert (record.state, record.evidence) == (errors.UNAVAILABLE, "measured")
    assert record.measurements == {}
    for said in ("hardware=gaudi2", "here is", "hardware=auto"):
        assert said in record.message


def test_a_stand_in_says_that_it_is_one(run: Run) -> None:
    record = run("benchmark=digits", "hardware=a100", "hardware.stand_in=true", "until.steps=2")
    assert (record.state, record.evidence, record.recipe["scale"]) == (errors.DONE, "simulated", "smoke")


def test_the_nearest_precision_is_marked(run: Run) -> None:
    words = ["benchmark=digits", "hardware=cpu", "precision=tf32", "precision_policy=nearest", "until.steps=2"]
    recipe = run(*words).recipe
    assert (recipe["precision_asked"], recipe["precision"]) == ("tf32", "fp32")


def test_mixed_precision_trains_on_a_cpu(run: Run) -> None:
    record = run("benchmark=digits", "hardware=cpu", "precision=bf16", "until.steps=30")
    assert record.state == errors.DONE
    assert last_accuracy(record) > 0.4


def test_a_nan_loss_fails_the_cell_and_keeps_its_series(run: Run) -> None:
    record = run("benchmark=digits", "optimizer=sgd", "optimizer.learning_rate=1000000", "until.steps=60")
    assert (record.state, record.reason) == (errors.FAILED, "nan")
    assert len(read_series(record.folder)["loss"]) == 60


def test_a_cell_that_takes_too_long_fails_with_what_it_has(run: Run) -> None:
    record = run("benchmark=digits", "until=budget", "until.seconds=100", "timeout=0.3")
    assert (record.state, record.reason) == (errors.FAILED, "timeout")
    assert record.measurements["steps"] > 0


def test_a_bug_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.methods.finetune import Finetune

    monkeypatch.setattr(Finetune, "observe", lambda *_: 1 / 0)
    record = run("benchmark=digits", "until.steps=2")
    assert (record.state, record.reason) == (errors.FAILED, "bug")
    assert "ZeroDivisionError" in record.message
    assert "Traceback" in record.traceback


def test_ctrl_c_leaves_an_interrupted_record(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.methods.finetune import Finetune

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Finetune, "observe", interrupt)
    assert run("benchmark=digits", "until.steps=2").state == errors.INTERRUPTED


def test_prequential_predicts_before_it_learns_and_computes_nothing_twice(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.benchmarks import models

    calls = []
    build = models.mlp

    def counting(**arguments: Any) -> Any:
        network = build(**arguments)
        network.register_forward_pre_hook(lambda module, _: calls.append(module.training))
        return network

    monkeypatch.setattr(models, "mlp", counting)
    record = run("benchmark=digits", "setting.protocol=[prequential]", "until.steps=5")
    assert record.state == errors.DONE
    assert sum(calls) == 5, "one forward pass a step serves prediction and learning"


def test_a_lightning_module_is_a_method(run: Run) -> None:
    record = run("benchmark=digits", "method=lightning", "optimizer=sgd", "until.steps=300")
    assert record.state == errors.DONE
    assert last_accuracy(record) > 0.8


def test_a_lightning_module_is_a_classifier_unless_it_is_said_to_be_another(run: Run) -> None:
    """The module of the example cannot read tokens, which is known before anything runs; one that can is let."""
    words = ["benchmark=text_domains", "setting=domain_incremental", "method=lightning", "setting.contexts=2"]
    with pytest.raises(errors.Refused) as refused:
        run(*words)
    (line,) = str(refused.value).splitlines()
    assert "method lightning needs classification (targets are classes), which benchmark text_domains does not" in line
    words += ["benchmark.data.domains=2", "benchmark.data.megabytes=0.005", "benchmark.data.symbols=4"]
    words += ["method.needs=[differentiable,supervised]", f"method.module._target_={__name__}.NextToken"]
    record = run(*words, "until.steps=60")
    assert record.state == errors.DONE, record.message
    assert record.evaluations[-1]["metric"] == "perplexity"
    assert figures(record)["learning_nats"] < figures(record)["untrained_nats"] - 2


class NextToken(lightning.LightningModule):
    """Tokens [batch, length] to scores [batch, length, outputs] of the next one, from the last one alone."""

    def __init__(self, outputs: int, learning_rate: float) -> None:
        super().__init__()
        self.scores = nn.Embedding(outputs, outputs)
        self.learning_rate = learning_rate

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scores(tokens)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.learning_rate)


def test_a_cell_without_checkpoints_says_why_and_that_it_starts_anew(run: Run, monkeypatch: Any) -> None:
    """As one of Avalanche's: a method that keeps its state to itself."""
    from fourfold.methods.finetune import Finetune

    monkeypatch.setattr(Finetune, "state_dict", lambda _: {})
    words = ("benchmark=digits", "until.steps=20", "checkpoint.steps=2")
    record = run(*words)
    why = "method finetune has no state that can be written as plain data"
    assert record.measurements["checkpoints"] == {"count": 0, "bytes": 0, "none": why}
    assert not list(record.folder.glob("checkpoint*"))

    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Finetune, "observe", pressed)
    record = run(*words)
    assert record.state == errors.INTERRUPTED
    assert record.message == f"ended by the user; there are no checkpoints ({why}), so that it starts anew"


def test_broken_data_is_named(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    record = run("benchmark=mnist", f"data_dir={tmp_path / 'data'}")
    assert record.state == errors.UNAVAILABLE
    assert "train-images-idx3-ubyte.gz" in record.message
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    assert "damaged" in run("benchmark=mnist", f"data_dir={tmp_path / 'data'}").message


def test_absent_data_says_how_to_get_it(run: Run, tmp_path: Path) -> None:
    record = run("benchmark=mnist", f"data_dir={tmp_path}")
    assert record.state == errors.UNAVAILABLE
    for said in ("mnist", "FOURFOLD_DATA", str(tmp_path)):
        assert said in record.message


@pytest.mark.parametrize("benchmark", ["llama", "bert", "resnet"])
def test_smoke_sizes_learn(run: Run, benchmark: str) -> None:
    record = run(f"benchmark={benchmark}", "hardware=cpu", "until.steps=12")
    losses = read_series(record.folder)["loss"]
    assert record.state == errors.DONE
    assert np.isfinite(losses).all()
    assert losses[-4:].mean() < losses[:4].mean()


def test_generation_counts_generated_tokens(run: Run) -> None:
    record = run("benchmark=llama", "method=inference", "method.new_tokens=5", "until.steps=2")
    assert record.state == errors.DONE
    assert record.measurements["units"] == 2 * 4 * 5


def test_a_prequential_cell_scores_predictions_of_new_samples_and_is_not_tested(run: Run) -> None:
    record = run("benchmark=digits", "setting.protocol=[prequential]", "until.steps=200")
    score = read_series(record.folder)["score"]
    assert record.evaluations == []
    assert len(score) == 200
    new = int(np.isfinite(score).sum())
    assert new == -(-1437 // 32), "the first pass"
    assert score[:5].mean() < 0.5 < score[new - 10 : new].mean(), "it learns between predictions"


def test_several_devices_need_the_launcher(run: Run) -> None:
    record = run("benchmark=digits", "hardware=cpu", "hardware.devices=2")
    assert record.state == errors.REFUSED
    assert "needs 2 processes, one for each device, and here are 1; run.py starts as many itself" in record.message
