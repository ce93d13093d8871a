"""Training samples changed at random: what is drawn, that it is only training's, and that it can be drawn again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fourfold.data.augmentation import flip_and_crop
from fourfold.errors import Refused
from learning import Bench, digits, killed_and_resumed, same

FLIP = "benchmark/augmentation=flip_and_crop"


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(batch: int, height: int = 5, width: int = 7) -> Tensor:
    """Pictures whose pixels say where they are."""
    return torch.arange(2.0 * height * width).view(1, 2, height, width).repeat(batch, 1, 1, 1)


def test_nothing_asked_for_changes_nothing() -> None:
    pictures = numbered(3)
    assert torch.equal(flip_and_crop(pictures, stream(), 0.0, 0, "edge"), pictures)


def test_mirrored_pictures_are_mirrored_and_as_many_as_asked_for() -> None:
    pictures = numbered(2000)
    found = flip_and_crop(pictures, stream(), 0.3, 0, "edge")
    mirrored = (found == pictures.flip(3)).flatten(1).all(1)
    assert torch.equal(found[~mirrored], pictures[~mirrored])
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(("fill", "mode"), [("edge", "replicate"), ("zeros", "constant")])
def test_windows_lie_evenly_in_the_frame(fill: str, mode: str) -> None:
    pictures = numbered(3000, 3, 4)
    framed = torch.nn.functional.pad(pictures[:1], [2] * 4, mode=mode)
    windows = {
        (down, right): framed[0, :, down : down + 3, right : right + 4] for down in range(5) for right in range(5)
    }
    found = flip_and_crop(pictures, stream(), 0.0, 2, fill)
    counts = [(found == window).flatten(1).all(1).sum().item() for window in windows.values()]
    assert sum(counts) == 3000
    assert min(counts) > 70  # of 120 expected
    assert max(counts) < 180


def test_samples_of_a_batch_are_changed_apart_and_the_same_stream_gives_the_same() -> None:
    pictures = torch.rand(1, 3, 8, 8).repeat(16, 1, 1, 1)
    found = flip_and_crop(pictures, stream(), 0.5, 4, "edge")
    assert len(found.unique(dim=0)) > 10
    assert torch.equal(found, flip_and_crop(pictures, stream(), 0.5, 4, "edge"))
    assert not torch.equal(found, flip_and_crop(pictures, stream(1), 0.5, 4, "edge"))


class Changing(Bench):
    """Digits of which every batch is changed; the pictures that were learned from are kept."""

    def __init__(self) -> None:
        super().__init__("finetune", "class_incremental", steps=15)
        self.benchmark.augment = lambda inputs, draw: flip_and_crop(inputs, draw, 0.5, 2, "zeros")
        self.learned: list[Tensor] = []
        observe = self.method.observe

        def noting(observation: Any, *rest: Any) -> Any:
            self.learned.append(observation.inputs)
            return observe(observation, *rest)

        self.method.observe = noting  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _digits_as_they_were() -> Any:
    """They are made once for all tests."""
    yield
    digits().augment = None


def test_what_is_learned_from_is_changed_and_what_is_judged_or_sampled_is_not() -> None:
    bench, plain = Changing(), Bench("finetune", "class_incremental")
    bench.learn_all()
    seen = {tuple(row.flatten().tolist()) for row in bench.stream.train.inputs}
    assert sum(tuple(row.flatten().tolist()) in seen for batch in bench.learned for row in batch) < 40
    sampled = next(bench.experience(0).sample(5, "test", 5)).inputs
    assert all(tuple(row.flatten().tolist()) in seen for row in sampled)
    assert torch.equal(bench.stream.test.inputs, plain.stream.test.inputs)


def test_a_killed_cell_meets_the_same_pictures_again(tmp_path: Path) -> None:
    whole, resumed = killed_and_resumed(Changing, tmp_path, every=2, killed_at=7)
    assert same(whole.parameters(), resumed.parameters())
    assert torch.equal(torch.cat(resumed.learned), torch.cat(whole.learned)[-sum(map(len, resumed.learned)) :])


def test_a_cell_by_its_command(run: Callable[..., Any]) -> None:
    words = ("benchmark=digits", "hardware=cpu", "until.steps=5", FLIP, "benchmark.augmentation.padding=1")
    record = run(*words, "optimizer.schedule=cosine")
    assert record.state == "done", record.message
    assert (
        run("benchmark=digits", "hardware=cpu", "until.steps=5").measurements["fingerprint"]
        != (record.measurements["fingerprint"])
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("benchmark=digits", FLIP, "benchmark.augmentation.flip=2"), "benchmark.augmentation.flip=2: must be between"),
        (("benchmark=digits", FLIP, "benchmark.augmentation.fill=edges"), "did you mean edge"),
        (("benchmark=digits", "benchmark/augmentation=flip"), "choose one of flip_and_crop, none"),
    ],
)
def test_wrong_values_are_refused(words: tuple[str, ...], said: str, run: Callable[..., Any]) -> None:
    with pytest.raises(Refused) as caught:
        run(*words)
    assert said in str(caught.value)


def test_what_is_no_picture_is_refused(run: Callable[..., Any]) -> None:
    text = run("benchmark=opt", "hardware=cpu", "scale=smoke", "until.steps=2", FLIP)
    assert (text.state, text.message) == (
        "refused",
        "benchmark/augmentation=flip_and_crop: needs pictures [channels, height, width]; choose none",
    )
    made = run("benchmark=matmul", "hardware=cpu", "scale=smoke", FLIP)
    assert (made.state, made.message) == (
        "refused",
        "benchmark/augmentation: benchmark matmul has no samples to change; choose none",
    )
