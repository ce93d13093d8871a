"""Collectives: how fast devices can exchange what training exchanges."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.kernels import DTYPES
from fourfold.errors import Unavailable
from fourfold.randomness import generator
from fourfold.recipe import Recipe

GROUPS = {"cpu": "ProcessGroupGloo", "cuda": "ProcessGroupNCCL", "xpu": "ProcessGroupXCCL"}


class AllReduce(Benchmark):
    """All devices end with the largest of their values, elementwise. The unit of its rate is the bytes of the message.

    That is the bandwidth of the algorithm; each of n links carries 2 (n - 1) / n times as much. The largest instead of
    the sum, because it can be repeated on the same buffer for ever; as much is sent. With one device nothing is sent:
    what remains is the cost of the call.
    """

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.bytes = int(recipe.model["megabytes"] * 1e6)

    def kernel(self, device: torch.device) -> tuple[Callable[[], Any], float]:
        """The operation, ready to be called on the device, and the bytes of one call."""
        dtype = DTYPES.get(self.recipe.precision, torch.float32)
        count = max(1, self.bytes // dtype.itemsize)
        values = torch.rand(count, generator=generator(self.seed, "message")).to(device, dtype)
        return largest_of_all(values), float(count * dtype.itemsize)


def largest_of_all(values: Tensor) -> Callable[[], Any]:
    """The operation on a buffer: among the ranks of the run, or in a group of one where there is one process.

    Raises Unavailable if torch was built without collectives for the device.
    """
    if distributed.is_available() and distributed.is_initialized():
        return lambda: distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
    group_type = getattr(distributed, GROUPS.get(values.device.type, ""), None)
    if group_type is None:
        raise Unavailable(f"this torch has no collectives for {values.device.type}; install a build that has")
    group = group_type(distributed.HashStore(), 0, 1)
    options = distributed.AllreduceOptions()
    options.reduceOp = distributed.ReduceOp(distributed.ReduceOp.MAX)
    return lambda: group.allreduce([values], options).wait()
