"""Networks that no device holds whole: spread by parameters (FSDP2), or by the products of each layer (tensor)."""

from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fourfold.errors import Refused

WAYS_OUT = "ddp, fsdp and replicas take any model"


def shard(network: nn.Module, mesh: Any, whole: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """FSDP2 (Zhao et al. 2023): every repeated block, then the rest, spread over the ranks of a 1-D mesh.

    network: on the meta device; only a rank's own part of it is ever on its ``device``. ``whole`` builds it in the
    memory of the host, on the first rank alone: its values are those of a single process, whatever the ranks.
    """
    from torch.distributed.fsdp import fully_shard

    for block in blocks(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    network.to_empty(device=device)
    source = _tensors(whole()) if mesh.get_rank() == 0 else {}
    _fill(network, source, mesh, device)
    return network


def recomputing(network: nn.Module) -> nn.Module:
    """Every repeated block keeps only its inputs and is computed again in the backward pass (Chen et al. 2016).

    Raises Refused for a network without any.
    """
    repeated = blocks(network)
    if not repeated:
        raise Refused("recompute=true: this network has no list of repeated blocks; leave recompute=false")
    for block in repeated:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return network


def blocks(network: nn.Module) -> list[nn.Module]:
    """The entries of the outermost lists of layers: what a model repeats."""
    found: list[nn.Module] = []
    for child in network.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return [block for block in found if any(True for _ in block.parameters())]


@torch.no_grad()
def _fill(network: nn.Module, source: dict[str, Tensor], mesh: Any, device: torch.device) -> None:
    """Scatters the first rank's tensors, one at a time. Buffers, which are not spread, go to all."""
    for name, tensor in _tensors(network).items():
        full = source[name].to(device) if source else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if hasattr(tensor, "placements"):
            tensor.copy_(torch.distributed.tensor.distribute_tensor(full, mesh, tensor.placements))
        else:
            torch.distributed.broadcast(full, src=0, group=mesh.get_group())
            tensor.copy_(full)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def split(network: nn.Module, mesh: Any) -> nn.Module:
    """Tensor parallelism (Shoeybi et al. 2019): of two products in a row the first is split by columns, the second by
    rows, so that one sum over the ranks follows them. Raises Refused for a model that has no plan, or is not divisible.
    """
    from torch.distributed.tensor.parallel import parallelize_module

    return parallelize_module(network, mesh, plan_of(network, mesh.size()))


def plan_of(network: nn.Module, ranks: int) -> dict[str, Any]:
    """How each layer of a transformers model is split, by its name: the plan that the library states for it.

    An embedding that is also the head stays whole: split layer by layer, it would become two.
    Raises Refused if it states none, or one with parts that torch cannot do, or heads that do not divide.
    """
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    make: dict[str, Callable[[], Any]] = {
        "colwise": ColwiseParallel,
        "rowwise": RowwiseParallel,
        "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
        "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
    }
    prefix, model = next(((name, each) for name, each in network.named_modules() if _stated(each)), ("", network))
    styles = {f"{prefix}.{pattern}".lstrip("."): style for pattern, style in _stated(model).items()}
    beyond = sorted({style for style in styles.values() if style not in make})
    if not styles or beyond:
        why = f"splits layers in ways that torch does not ({', '.join(beyond)})" if beyond else "has no plan"
        raise Refused(f"strategy=tensor: {type(model).__name__} {why}; {WAYS_OUT}")
    _check_heads(model, ranks)
    layers = {name: each for name, each in network.named_modules() if isinstance(each, nn.Linear | nn.Embedding)}
    uses = Counter(id(layer.weight) for layer in layers.values())
    return {
        name: make[style]()
        for name, layer in layers.items()
        for pattern, style in styles.items()
        if fnmatchcase(name, pattern) and uses[id(layer.weight)] == 1
    }


def _stated(module: nn.Module) -> dict[str, str]:
    return getattr(module, "tp_plan", None) or {}


def _check_heads(model: Any, ranks: int) -> None:
    config = getattr(model.config, "get_text_config", lambda: model.config)()
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        number = getattr(config, key, None)
        if number is not None and number % ranks:
            raise Refused(f"strategy=tensor: {ranks} devices do not divide {key}={number} of the model; {WAYS_OUT}")
