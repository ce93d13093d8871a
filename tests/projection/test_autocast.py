"""Mixed precision on the meta device against torch's own autocast, where that acts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fourfold.measure.flops import OperatorTrace
from fourfold.projection.autocast import MetaAutocast


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 16), nn.Linear(16, 16)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.convolution(inputs)).flatten(1)
        hidden = self.second(F.gelu(self.first(hidden)))
        return hidden @ hidden.T


def products(device: str, dtype: torch.dtype) -> list[tuple[str, str, int]]:
    """The products of a forward and backward pass under mixed precision: operator, data type, calls."""
    network, inputs = Net().to(device), torch.zeros(4, 3, 8, 8, device=device)
    autocast = MetaAutocast(dtype) if device == "meta" else torch.autocast("cpu", dtype)
    with OperatorTrace() as found:
        with autocast:
            loss = network(inputs).mean()
        loss.backward()
    kinds = ("matmul", "batched_matmul", "convolution")
    return sorted((call.name, call.dtype, call.flops, call.calls) for call in found.operators() if call.kind in kinds)


def test_products_are_those_of_torch_s_autocast() -> None:
    assert products("meta", torch.bfloat16) == products("cpu", torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_32_bit_and_products_16(dtype: torch.dtype) -> None:
    inputs, weight = torch.empty(4, 8, device="meta"), torch.empty(8, 8, device="meta")
    with MetaAutocast(dtype):
        product = inputs @ weight
        assert product.dtype == dtype
        assert F.softmax(product, -1).dtype == torch.float32
        assert F.layer_norm(product, (8,)).dtype == torch.float32
        assert F.relu(product).dtype == dtype
        assert (product + inputs).dtype == torch.float32


def test_a_weight_is_cast_once_a_pass() -> None:
    layer, inputs = nn.Linear(8, 8, bias=False, device="meta"), torch.empty(4, 8, device="meta")
    with OperatorTrace() as found, MetaAutocast(torch.bfloat16):
        layer(layer(inputs))
    casts = sum(call.calls for call in found.operators() if call.name == "_to_copy")
    assert casts == 2  # the inputs and the weight; what the first layer made is 16 bits already


@pytest.mark.parametrize(("dtype", "kernel"), [(torch.float32, "efficient"), (torch.bfloat16, "flash")])
def test_attention_is_one_kernel_that_holds_no_scores(dtype: torch.dtype, kernel: str) -> None:
    query = torch.empty(2, 4, 128, 16, device="meta", dtype=dtype, requires_grad=True)
    with OperatorTrace() as found:
        with MetaAutocast(None):
            mixed = F.scaled_dot_product_attention(query, query, query, is_causal=True)
        mixed.sum().backward()
    names = [call.name for call in found.operators() if call.kind == "attention"]
    assert names == [f"_scaled_dot_product_{kernel}_attention", f"_scaled_dot_product_{kernel}_attention_backward"]
    assert mixed.shape == query.shape
    assert max(call.bytes for call in found.operators()) < 2 * 4 * 128 * 128 * 4
