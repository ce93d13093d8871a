"""How many bytes of tensors a device would hold, call by call: what an allocator sees, without one."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512  # bytes; torch's allocators of devices give out multiples of it


def dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor itself, or the indices and values of a sparse one."""
    return (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,)


class LiveBytes(TorchDispatchMode):
    """Follows every storage made within it until it is freed. ``live`` and ``peak`` are bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    for part in dense_parts(leaf):
                        self.add(part)
        return out

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, unless it is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def reset(self) -> None:
        """From here on, a new peak."""
        self.peak = self.live

    def _free(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)
