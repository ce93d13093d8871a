"""How a network is taken apart: two real ranks that meet over gloo."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from fourfold.benchmarks.language import llama
from fourfold.errors import Refused
from fourfold.hardware.sharding import plan_of, shard, split

SIZES: dict[str, Any] = {
    "vocabulary": 50, "hidden": 32, "intermediate": 48, "layers": 2, "heads": 4, "key_value_heads": 2,
    "positions": 32, "rope_base": 10000.0,
}  # fmt: skip


def tiny(tied: bool) -> nn.Module:
    torch.manual_seed(0)
    return llama(**SIZES, tied=tied)


def _rank(rank: int, folder: str, tied: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ranks",))
    whole = tiny(tied)
    tokens = torch.arange(24).reshape(2, 12)
    expected = whole(tokens)
    expected.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in whole.named_parameters()}

    def same(network: nn.Module) -> None:
        outputs = network(tokens)
        torch.testing.assert_close(outputs.detach(), expected.detach(), rtol=1e-5, atol=1e-6)
        outputs.square().mean().backward()
        for name, parameter in network.named_parameters():
            found = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
            torch.testing.assert_close(found, gradients[name], rtol=1e-4, atol=1e-6, msg=name)

    with torch.device("meta"):
        empty = llama(**SIZES, tied=tied)
    built: list[int] = []

    def build() -> nn.Module:
        built.append(rank)
        return tiny(tied)

    sharded = shard(empty, mesh, build, torch.device("cpu"))
    assert built == ([0] if rank == 0 else []), "only the first rank holds it whole"
    for name, parameter in sharded.named_parameters():
        assert parameter.to_local().shape[0] == parameter.shape[0] / 2, name
        torch.testing.assert_close(parameter.full_tensor(), dict(whole.named_parameters())[name], rtol=0, atol=0)
    same(sharded)

    divided = split(tiny(tied), mesh)
    layer: Any = divided.model.model.layers[0]  # type: ignore[union-attr]
    assert layer.self_attn.q_proj.weight.to_local().shape == (16, 32)  # columns: half of the outputs
    assert layer.self_attn.k_proj.weight.to_local().shape == (8, 32)
    assert layer.self_attn.o_proj.weight.to_local().shape == (32, 16)  # rows: half of the inputs
    assert layer.mlp.up_proj.weight.to_local().shape == (24, 32)
    assert layer.mlp.down_proj.weight.to_local().shape == (32, 24)
    for ends in (divided.model.lm_head.weight, divided.model.model.embed_tokens.weight):  # type: ignore[union-attr]
        assert not hasattr(ends, "to_local") if tied else ends.to_local().shape == (25, 32)  # a half of the words
    same(divided)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_two_ranks_hold_a_half_each_and_compute_what_one_does(tmp_path: Path, tied: bool) -> None:
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path), tied), nprocs=2)


def test_a_model_without_a_plan_is_refused_with_what_would_do() -> None:
    with pytest.raises(Refused, match="strategy=tensor: Sequential has no plan; ddp, fsdp and replicas take any model"):
        plan_of(nn.Sequential(nn.Linear(2, 2)), 2)


def test_heads_must_divide() -> None:
    with pytest.raises(Refused, match="4 devices do not divide num_key_value_heads=2"):
        plan_of(tiny(False), 4)


def test_every_benchmark_that_says_it_splits_has_a_plan_for_two() -> None:
    from fourfold.benchmarks import interface
    from fourfold.composition import compose, config_directory, plain
    from fourfold.recipe import resolve

    files = sorted((config_directory() / "benchmark").glob("*.yaml"))
    names = [path.stem for path in files if "splits" in (yaml.safe_load(path.read_text()).get("offers") or ())]
    assert {"llama", "mistral", "pythia"} <= set(names)
    for name in names:
        cell = plain(compose([f"benchmark={name}", "scale=smoke", "benchmark.data.megabytes=0.1"]))
        network = interface.build(cell, resolve(cell, accelerator=False)).network(0, "meta")
        plan = plan_of(network, 2)
        assert len(plan) >= 4 * len(network.model.base_model.layers), name
