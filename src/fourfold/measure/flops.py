"""Floating-point work by operator: what torch is asked to do within a block, noted call by call.

A multiplication and an addition are two FLOP. Only products are counted (matrix products and convolutions), by the
formulas of torch's own counter.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten: Any = torch.ops.aten
KINDS = {
    aten.mm: "matmul",
    aten.addmm: "matmul",
    aten._scaled_mm: "matmul",
    aten.bmm: "batched_matmul",
    aten.baddbmm: "batched_matmul",
    aten.convolution: "convolution",
    aten._convolution: "convolution",
    aten.convolution_backward: "convolution",
}


def convolution_backward_flops(grad: Tensor, inputs: Tensor, weight: Tensor, *rest: Any, out_val: Any) -> int:
    """As many for the gradient of the inputs, and of the weights, as for the outputs: 2 k^d C_in / g for each of them.

    torch's own formula counts the weights' as if a grouped convolution were a full one.
    """
    transposed, needed = rest[4], rest[-1]
    outputs = inputs if transposed else grad
    return 2 * outputs.numel() * weight[0].numel() * (int(needed[0]) + int(needed[1]))


FORMULAS = {**flop_registry, aten.convolution_backward: convolution_backward_flops}
# What runs nothing on a device, though it makes a tensor; and what reads only some rows of its first tensor.
RENAMING = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "detach", "alias")
PICKING = ("embedding", "index", "index_select")
# A loop that ends when all are done would never end.
MOST_TRUTHS = 100
# A complex product is four real products and two additions: 8 FLOP for each pair where a real one has 2.
COMPLEX = 4


@dataclass(frozen=True)
class Operator:
    """Calls that are alike: the operator's name, its kind and data type, and FLOP and bytes of one call.

    kind: matmul | batched_matmul | convolution | depthwise_convolution | attention | other.
    bytes: of all tensors read and written, each counted once a call; views and allocations move nothing.
    """

    name: str
    kind: str
    dtype: str
    flops: int
    bytes: int
    calls: int


@dataclass(frozen=True)
class StepTrace:
    """The operators of one step that does ``units`` units of work, in the order of their first calls."""

    operators: tuple[Operator, ...]
    units: float

    @property
    def flops(self) -> int:
        """Of the whole step."""
        return sum(operator.flops * operator.calls for operator in self.operators)

    @property
    def flops_per_unit(self) -> float | None:
        """None if the step does no units of work."""
        return self.flops / self.units if self.units else None

    def by_kind(self) -> dict[str, int]:
        """FLOP of the whole step by kind of operator; kinds without any are left out."""
        found: Counter[str] = Counter()
        for operator in self.operators:
            found[operator.kind] += operator.flops * operator.calls
        return {kind: flops for kind, flops in found.items() if flops}


class OperatorTrace(TorchDispatchMode):
    """Notes each operator that is called within it: what it is, its FLOP and the bytes it moves.

    On the meta device a truth that is read ("are these all equal?") is taken for false; to read a number fails. What a
    library checks of values (torch._check_tensor_all) is taken to hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, str, str, int, int]] = Counter()
        self.truths = 0

    def __enter__(self) -> "OperatorTrace":
        self._check = torch._check_tensor_all_with
        torch._check_tensor_all_with = lambda *_: None
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch._check_tensor_all_with = self._check
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            self.truths += 1
            if self.truths > MOST_TRUTHS:
                raise RuntimeError("the step goes on until a value says otherwise; it cannot be traced without values")
            return False
        if func not in DECOMPOSED and func._overloadpacket not in FORMULAS:
            with self:
                found = func.decompose(*args, **kwargs)
                if found is not NotImplemented:
                    return found
            DECOMPOSED.add(func)
        out = func(*args, **kwargs)
        self._note(func, args, kwargs, out)
        return out

    def _note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func._overloadpacket
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        formula = FORMULAS.get(packet)
        flops = int(formula(*args, **kwargs, out_val=out)) if formula else 0
        if made and made[0].is_complex():
            flops *= COMPLEX
        moved = 0 if func.is_view else _bytes_moved(packet.__name__, given, made)
        kind = KINDS.get(packet, "attention" if formula else "other")
        if kind == "convolution" and _depthwise(packet, args):
            kind = "depthwise_convolution"
        dtype = str((made or given)[0].dtype).removeprefix("torch.") if made or given else "none"
        self.calls[packet.__name__, kind, dtype, flops, moved] += 1

    def operators(self) -> tuple[Operator, ...]:
        """What was noted, calls that are alike together."""
        return tuple(Operator(*key, calls) for key, calls in self.calls.items())


def _depthwise(packet: Any, args: Any) -> bool:
    """Whether each channel is convolved by itself: a weight [channels, 1, ...] in as many groups."""
    weight = args[2] if packet is aten.convolution_backward else args[1]
    groups = args[9] if packet is aten.convolution_backward else args[8]
    return groups > 1 and groups == weight.shape[0] and weight.shape[1] == 1


def _bytes_moved(name: str, given: list[Tensor], made: list[Tensor]) -> int:
    """Of what is read and written: an expanded tensor's few bytes, and of a table the rows that are picked."""
    if name in RENAMING:
        return 0
    read = [*made, *given[1:]] if name in PICKING else given
    return sum(
        min(part.numel() * part.element_size(), part.untyped_storage().nbytes())
        for leaf in (*read, *made)
        for part in ((leaf._indices(), leaf._values()) if leaf.is_sparse else (leaf,))
    )


DECOMPOSED: set[Any] = set()  # operators that are known not to be made of others


class StepCount:
    """Counts FLOP as they are spent: of some steps of each stretch, and of all that is done as a context ends.

    Steps 1, 2, 8, 32, 128, ... are counted, those between are taken to be like the last that was: a step's size may
    depend on what a method remembers, and that changes most at first. A counted step is slower. ``note`` is told the
    FLOP of a step and which of the cell it was, and ``steps`` says how many are done; without them nothing is counted.
    """

    def __init__(
        self, note: Callable[[float, int], None] | None = None, steps: Callable[[], int] | None = None
    ) -> None:
        self.note, self.steps = note, steps
        self._trace: OperatorTrace | None = None
        self._at = 0
        self._ending = 0

    def begin(self, number: int) -> None:
        """Before step ``number`` (from 0) of a stretch."""
        if self.note is not None and self.steps is not None and is_counted(number):
            self._at = self.steps()
            self._trace = OperatorTrace()
            self._trace.__enter__()

    def end(self) -> None:
        """After a step; also where one was broken off."""
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.__exit__(None, None, None)
            if self.note is not None and self.steps is not None and self.steps() > self._at:
                self.note(_flops_of(trace), self._at)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """What is done within belongs to the end of a context."""
        if self.note is None:
            yield
            return
        with OperatorTrace() as trace:
            yield
        self._ending += _flops_of(trace)

    def taken(self) -> dict[str, int]:
        """The FLOP of the context that has ended, as an entry of the record; nothing where they are not counted."""
        found, self._ending = self._ending, 0
        return {} if self.note is None else {"end_flops": found}


def is_counted(number: int) -> bool:
    """Whether step ``number`` (from 0) is 1, 2, 8, 32, ... from 1: 1 or twice a power of four."""
    half = (number + 1) // 2
    return number == 0 or (number % 2 == 1 and half & (half - 1) == 0 and half.bit_length() % 2 == 1)


def _flops_of(trace: OperatorTrace) -> int:
    return sum(operator.flops * operator.calls for operator in trace.operators())
