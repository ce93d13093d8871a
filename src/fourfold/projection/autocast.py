"""Mixed precision where nothing is computed: torch's autocast does not act on the meta device, this does.

The two lists are those of torch's autocast of accelerators (its documentation, "CUDA Op-Specific Behavior"):
products in 16 bits, sums and exponentials in 32. Attention becomes the fused kernel that an accelerator would take.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

aten: Any = torch.ops.aten

# What takes the same storage on its way through the names that Python code uses.
PRODUCTS = {
    F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    torch.matmul, torch.mm, torch.bmm, torch.mv, torch.addmm, torch.baddbmm, torch.addbmm, torch.einsum,
    Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.mv, Tensor.addmm, Tensor.baddbmm,
    Tensor.__matmul__, Tensor.__rmatmul__,
}  # fmt: skip
SUMS = {
    F.softmax, F.log_softmax, F.softplus, F.layer_norm, F.group_norm, F.normalize, F.cosine_similarity,
    F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.kl_div, F.binary_cross_entropy_with_logits,
    torch.softmax, torch.log_softmax, torch.exp, torch.log, torch.pow, torch.rsqrt, torch.reciprocal, torch.sum,
    torch.prod, torch.cumsum, torch.cumprod, torch.norm, torch.expm1, torch.log1p,
    Tensor.softmax, Tensor.log_softmax, Tensor.exp, Tensor.log, Tensor.pow, Tensor.__pow__, Tensor.rsqrt,
    Tensor.reciprocal, Tensor.sum, Tensor.prod, Tensor.cumsum, Tensor.norm, Tensor.__rdiv__, Tensor.__rpow__,
}  # fmt: skip
NARROW = (torch.float16, torch.bfloat16)


class MetaAutocast(TorchFunctionMode):
    """Casts as autocast would; ``dtype`` None leaves precision alone, and only fuses attention.

    A weight is cast once in each forward pass, as autocast's cache does.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.cast: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args and args[0].is_meta:
            args, kwargs = tree_map(self._narrow, (args, kwargs))
            return fused_attention(*args, **kwargs)
        if self.dtype is not None and func in PRODUCTS:
            args, kwargs = tree_map(self._narrow, (args, kwargs))
        elif self.dtype is not None and func in SUMS and kwargs.get("dtype") is None:
            args, kwargs = tree_map(_widen, (args, kwargs))
        return func(*args, **kwargs)

    def _narrow(self, value: Any) -> Any:
        if self.dtype is None or not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(self.dtype)
        if id(value) not in self.cast:
            self.cast[id(value)] = (value, value.to(self.dtype))
        return self.cast[id(value)][1]


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in NARROW else value


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as one kernel that never holds the score matrix: flash (Dao 2023) in 16 bits, memory-efficient (Rabe &
    Staats 2021) in 32 bits or with a mask. query [batch, heads, length, size] -> the same shape.
    """
    if enable_gqa and key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if query.dtype in NARROW and attn_mask is None:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    bias = None
    if attn_mask is not None:
        bias = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, dropout_p, is_causal, scale=scale
    )[0]
