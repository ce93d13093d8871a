"""Feedback training as an accelerator wants it: nothing read from it, compiled as a whole, layers side by side."""

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench import LOSS_OF, pictures, rule
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fourfold.benchmarks.layered import lenet
from fourfold.rules import dtp
from learning import same

aten = torch.ops.aten
# What waits for the device: a number for the host, or a shape that depends on values.
READS = {aten._local_scalar_dense, aten.item, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero}
READS |= {aten._linalg_check_errors, aten._assert_async}
WAYS = [
    {"formulation": "reference"},
    {"formulation": "linear"},
    {"formulation": "linear", "inversion": "gated"},
    {"formulation": "orthogonal"},
    {"formulation": "solve", "inversion": "gated"},
    {"formulation": "correlated", "inversion": "gated", "noise": 0.01},
    {"formulation": "correlated", "inversion": "gated", "noise": 0.01, "iterations": None},
    {"formulation": "linear", "later_iterations": 1, "later_after": 0},
]


def words(values: dict[str, Any]) -> str:
    return " ".join(map(str, values.values()))


class NothingRead(TorchDispatchMode):
    """Fails on an operation that makes the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        assert func.overloadpacket not in READS, f"{func} reads from the device"
        return func(*args, **(kwargs or {}))


def small(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return lenet((3, 8, 8), 5, [4, 6], 12, "elu", 1.0).to(dtype)


def prepared(**values: Any) -> tuple[Any, list[Any]]:
    """A rule and the passes of one batch."""
    made = rule("dtp", small(), **{"iterations": 3, **values})
    x, _ = pictures(12, dtype=torch.float32)
    made.steps = 1
    return made, made.forward(x)


@pytest.mark.parametrize("values", WAYS, ids=words)
def test_nothing_is_read_from_the_device_while_feedback_learns(values: dict[str, Any]) -> None:
    made, passes = prepared(**values)
    before = [weight.clone() for back in made.feedback.values() for weight in back.weights]
    with NothingRead() as watch, torch.no_grad():
        made.train_feedback(passes)
    assert watch.seen > 20
    assert not same(before, [weight for back in made.feedback.values() for weight in back.weights])


def test_a_read_would_be_seen() -> None:
    with pytest.raises(AssertionError, match="reads from the device"), NothingRead():
        float(torch.ones(2).sum())


def weights_after(batches: int, **values: Any) -> list[torch.Tensor]:
    net = small()
    made = rule("dtp", net, **{"iterations": 2, **values})
    for number in range(batches):
        torch.manual_seed(number)
        made.gradients(net, torch.randn(12, 3, 8, 8), torch.randint(5, (12,)), LOSS_OF)
    return [weight for back in made.feedback.values() for weight in back.weights]


@pytest.mark.parametrize("values", WAYS[1:4] + WAYS[5:6], ids=words)
def test_compiled_iterations_are_whole_programs_and_find_the_same(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program a block, without a break, used again for the next batch."""
    compiling, graphs = torch.compile, []

    def captured(program: Any, _inputs: Any) -> Any:
        graphs.append(program)
        return program

    monkeypatch.setattr(
        torch, "compile", lambda f, dynamic, mode: compiling(f, dynamic=dynamic, backend=captured, fullgraph=True)
    )
    torch._dynamo.reset()
    plain = weights_after(3, **values)
    assert not graphs
    assert same(plain, weights_after(3, compiled=True, **values))
    assert len(graphs) == 3


@pytest.mark.slow
def test_compiled_by_inductor() -> None:
    for values in (WAYS[1], WAYS[5]):
        plain, compiled = (weights_after(2, compiled=on, **values) for on in (False, True))
        for one, other in zip(plain, compiled, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_layers_learn_side_by_side_where_there_are_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on a stream that waits for ours, and ours waits for all of them."""
    said: list[str] = []

    class Stream:
        made = 0

        def __init__(self, device: Any = None, name: str | None = None) -> None:
            Stream.made += 1
            self.name = name or f"side {Stream.made}"

        def wait_stream(self, other: "Stream") -> None:
            said.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(stream: Stream) -> Any:
        said.append(f"on {stream.name}")
        yield

    ours = Stream(name="ours")
    Stream.made = 0
    module = SimpleNamespace(Stream=Stream, stream=on, current_stream=lambda device: ours)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    jobs: list[Callable[[], None]] = [lambda: said.append("first"), lambda: said.append("second")]
    dtp.side_by_side(torch.device("cuda"), jobs)
    assert said == [
        "side 1 waits for ours", "on side 1", "first", "side 2 waits for ours", "on side 2", "second",
        "ours waits for side 1", "ours waits for side 2",
    ]  # fmt: skip
    said.clear()
    dtp.side_by_side(torch.device("cpu"), jobs)
    assert said == ["first", "second"]
