"""Single operations: what the device can do at most."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.randomness import generator
from fourfold.recipe import Recipe

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class MatrixProduct(Benchmark):
    """C = A B for random square matrices: 2 n^3 floating-point operations a call, the unit of its rate."""

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.size: int = recipe.model["n"]

    def kernel(self, device: torch.device) -> tuple[Callable[[], Tensor], float]:
        """The operation, ready to be called on the device, and the FLOP of one call.

        fp8 multiplies e4m3 matrices with unit scales, which needs a GPU that has it.
        """
        draw = generator(self.seed, "matrices")
        left, right = (torch.randn(self.size, self.size, generator=draw).to(device) for _ in range(2))
        work = 2.0 * self.size**3
        if self.recipe.precision == "fp8":
            one = torch.ones((), device=device)
            eight = (left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn).t().contiguous().t())
            return lambda: torch._scaled_mm(*eight, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), work
        dtype = DTYPES[self.recipe.precision]
        left, right = left.to(dtype), right.to(dtype)
        result = torch.empty(self.size, self.size, device=device, dtype=dtype)
        return lambda: torch.mm(left, right, out=result), work
