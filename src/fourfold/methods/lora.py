"""Low-rank adaptation: the network stays as it is, small updates of its linear layers learn (Hu et al. 2022)."""

import torch
from torch import nn

from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.libraries import library
from fourfold.errors import Refused, nearest
from fourfold.methods.finetune import Finetune
from fourfold.randomness import seed_of
from fourfold.settings.stream import View


class Lora(Finetune):
    """y = W x + (alpha / rank) B A x with W frozen, A [rank, in] random and B [out, rank] zero at first (eq. 3)."""

    def __init__(self, rank: int, alpha: float, dropout: float, targets: list[str] | None) -> None:
        self.rank, self.alpha, self.dropout, self.targets = rank, alpha, dropout, targets

    def require(self) -> None:
        library("peft", "lora")

    def build_network(self, benchmark: Benchmark, view: View, device: torch.device) -> nn.Module:
        """The benchmark's network with an adapter in each target; all that is drawn is drawn on the CPU."""
        peft = library("peft", "lora")
        build_on = "meta" if device.type == "meta" else "cpu"
        network = super().build_network(benchmark, view, torch.device(build_on))
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=adapted_layers(network, self.targets),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.run.seed, "adapters"))
            adapted = peft.inject_adapter_in_model(config, network)
        return adapted if build_on == "meta" else adapted.to(device)


def adapted_layers(network: nn.Module, targets: list[str] | None) -> list[str]:
    """The names of the linear layers that get an adapter: those that end in one of the targets, or all but the last.

    Raises Refused if a target ends no linear layer's name.
    """
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if targets is None:
        if len(linear) < 2:
            raise Refused("method=lora: the model has no linear layer before its last one; choose method=finetune")
        return linear[:-1]
    endings = sorted({name.rpartition(".")[2] for name in linear})
    for target in targets:
        if not any(_ends_in(name, target) for name in linear):
            raise Refused(
                f"method.targets={target}: no linear layer ends in that; choose among {', '.join(endings)}"
                f"{nearest(target, endings)}"
            )
    return [name for name in linear if any(_ends_in(name, target) for target in targets)]


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
