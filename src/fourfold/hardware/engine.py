"""Device, precision, strategy and ranks, carried by Lightning's Fabric; on one device the network stays unwrapped."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from fourfold.errors import Refused
from fourfold.hardware import sharding
from fourfold.hardware.device import Device
from fourfold.hardware.strategies import FABRIC_PRECISION, precision_plugin, strategy_of


def unmarked(name: str) -> AbstractContextManager[Any]:
    """A phase that nobody measures."""
    return nullcontext()


class Engine:
    """What a method trains with: where tensors live, how a loss goes backward, how an optimizer steps.

    ``rank`` of ``world`` is this process among those of the cell; ``part`` of ``parts`` is its share of each batch.
    ``alone``: its network is whole and unwrapped, and it exchanges nothing while it learns.
    """

    def __init__(self, device: Device, precision: str, strategy: str, nodes: int = 1, weights: str = "fp32") -> None:
        self.facts = device
        self.precision, self.weights, self.strategy = precision, weights, strategy
        self.device = device.torch()
        ranks = device.count * nodes
        with warnings.catch_warnings():  # run.py starts the ranks itself: no hint to put srun before it
            warnings.filterwarnings("ignore", message="The .srun. command is available")
            self.fabric = Fabric(
                accelerator=device.vendor.accelerator(),
                devices=device.count,
                num_nodes=nodes,
                strategy=strategy_of(strategy, ranks, device.vendor, precision, self._divide),
                plugins=precision_plugin(precision, device.kind),
            )
        if ranks > 1:
            if ranks_started() != ranks:
                raise Refused(f"hardware.devices={device.count} hardware.nodes={nodes}: {_too_few(ranks, nodes)}")
            self.fabric.launch()
            self.device = self.fabric.device
        self.rank, self.world = self.fabric.global_rank, self.fabric.world_size
        self.alone = self.world == 1 or strategy == "replicas"
        shares = not self.alone and strategy != "tensor"  # with tensor, all ranks work on the same samples
        self.part, self.parts = (self.rank, self.world) if shares else (0, 1)
        # Plain means: one device and true 32-bit, where Fabric has nothing to do and its wrappers only cost time.
        self.plain = self.alone and FABRIC_PRECISION[precision] == "32-true"
        device.vendor.set_precision(precision)
        self._scheduled: WeakKeyDictionary[torch.optim.Optimizer, Mapping[str, Any]] = WeakKeyDictionary()
        self.phase: Callable[[str], AbstractContextManager[Any]] = unmarked  # the meter's, once there is one

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass and its loss."""
        return nullcontext() if self.plain else self.fabric.autocast()

    def full_precision(self) -> AbstractContextManager[Any]:
        """The context of what must not be rounded to 16 bits, within that of a forward pass or outside."""
        return nullcontext() if self.plain else torch.autocast(self.device.type, enabled=False)

    def gradient_scale(self) -> float:
        """By how much gradients in ``.grad`` are larger than they are: above 1 where fp16 scales them."""
        scaler = None if self.plain else getattr(self.fabric.strategy.precision, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of the loss to ``.grad``; with fp16, of the scaled loss."""
        with self.phase("backward"):
            if self.plain:
                loss.backward()
            else:
                self.fabric.backward(loss)

    def without_sync(self, network: nn.Module) -> AbstractContextManager[Any]:
        """The context of a backward pass whose gradients need not reach the other ranks yet."""
        return nullcontext() if self.alone else self.fabric.no_backward_sync(network)  # type: ignore[arg-type]

    def add_gradient(
        self, parameter: nn.Parameter, gradient: Tensor, factor: Tensor | None = None, weight: float = 1.0
    ) -> None:
        """Adds weight * gradient (* factor, an element each), which did not come through ``backward``; scaled as the
        others are where fp16 scales them."""
        weight *= self.gradient_scale()
        if parameter.grad is None:
            parameter.grad = gradient * weight if factor is None else gradient * factor * weight
        elif factor is None:
            parameter.grad.add_(gradient, alpha=weight)
        else:
            parameter.grad.addcmul_(gradient, factor, value=weight)

    def network(self, build: Callable[[torch.device], nn.Module]) -> nn.Module:
        """The network as it is to be called: unwrapped on one device, else within the strategy.

        ``build`` makes it on the device that it is given: "meta" where the strategy fills in each rank's part.
        """
        if self.alone:
            return self.stored(build(self.device))
        self._whole = lambda: self.stored(build(torch.device("cpu")))
        network = self.stored(build(torch.device("meta") if self.strategy == "fsdp" else self.device))
        wrapped = self.fabric.setup_module(network, move_to_device=False)
        if hasattr(network, "generate"):  # a forward pass too
            wrapped.mark_forward_method("generate")
        assert isinstance(wrapped, nn.Module)
        return wrapped

    def _divide(self, network: nn.Module, mesh: Any) -> nn.Module:
        if self.strategy == "tensor":
            return sharding.split(network, mesh["tensor_parallel"])
        return sharding.shard(network, mesh["data_parallel"], self._whole, self.device)

    def mean_over_ranks(self, values: np.ndarray) -> np.ndarray:
        """The mean of each value over the ranks, which must all come here with as many; float64 [n].

        The values themselves where each rank learns for itself.
        """
        if self.alone:
            return values
        total = self.fabric.all_reduce(torch.as_tensor(values, dtype=torch.float64, device=self.device))
        assert isinstance(total, Tensor)
        return total.cpu().numpy()

    def as_the_first(self, word: bool) -> bool:
        """What the first rank says; all must come here."""
        return bool(self.fabric.broadcast(word, src=0))

    def told_by_all(self, facts: Any) -> list[Any]:
        """What each rank has to say, in their order: plain data, or arrays. All must come here."""
        if self.world == 1:
            return [facts]
        told: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(told, facts)
        return told

    def stored(self, network: nn.Module) -> nn.Module:
        """The network with its weights in the type that the cell holds them in."""
        return held_in(network, self.weights)

    def optimizer(self, parameters: Iterable[nn.Parameter], recipe: Mapping[str, Any]) -> Any:
        """The recipe's optimizer over the parameters.

        Raises Refused for a name that torch.optim does not have under these settings.
        """
        made = make_optimizer(parameters, recipe)
        if recipe.get("schedule", "constant") != "constant":
            self._scheduled[made] = recipe
        return made if self.plain else self.fabric.setup_optimizers(made)

    def set_rates(self, epochs: float, length: float) -> None:
        """Gives the optimizers whose rate follows a schedule the one after so many passes of a phase of ``length``."""
        for optimizer, recipe in self._scheduled.items():
            rate = scheduled_rate(recipe, epochs, length)
            for group in optimizer.param_groups:
                group["lr"] = rate


def scheduled_rate(recipe: Mapping[str, Any], epochs: float, length: float) -> float:
    """cosine: last + (first - last) (1 + cos(pi e / E)) / 2 after e epochs (Loshchilov & Hutter 2017, no restarts).

    E: the recipe's ``schedule_epochs``, or the phase's ``length``. Beyond E the rate rises again, as torch's does.
    step: a tenth of itself after each E epochs.
    """
    first, last = recipe["learning_rate"], recipe["last_rate"]
    if recipe["schedule"] == "step":
        fallen: float = first * 0.1 ** math.floor(epochs / recipe["schedule_epochs"] + 1e-9)
        return fallen
    whole = recipe["schedule_epochs"] or length
    rate: float = last + (first - last) * (1 + math.cos(math.pi * epochs / whole)) / 2
    return rate


def held_in(network: nn.Module, precision: str) -> nn.Module:
    """The network with its weights in a precision. Buffers stay as they are, and so does batch normalisation, whose
    running statistics 16 bits would ruin."""
    if precision == "bf16":
        for module in network.modules():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(torch.bfloat16)
    return network


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    """torch.optim's sgd, adam or adamw with the recipe's values."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    rate, decay = recipe["learning_rate"], recipe["weight_decay"] or 0.0
    # On a CPU torch's default goes over each parameter ten times; in one kernel it takes a fifth of that.
    fused = True if all(type(p.data) is Tensor and p.device.type == "cpu" for p in trainable) else None
    if recipe["name"] == "sgd":
        return torch.optim.SGD(trainable, lr=rate, momentum=recipe["momentum"] or 0.0, weight_decay=decay)
    if recipe["name"] == "adam":
        return torch.optim.Adam(trainable, lr=rate, weight_decay=decay, fused=fused)
    if recipe["name"] == "adamw":
        return torch.optim.AdamW(trainable, lr=rate, weight_decay=decay, fused=fused)
    raise Refused(f"optimizer.name={recipe['name']}: choose one of sgd, adam, adamw")


def _too_few(ranks: int, nodes: int) -> str:
    """What is wrong with the number of processes, and what starts as many as there are devices."""
    if nodes > 1:
        remedy = "several nodes take a sweep (-m) with hydra/launcher=submitit_slurm"
    else:
        remedy = "run.py starts as many itself, where nothing (srun, torchrun: SLURM_NTASKS, WORLD_SIZE) has before"
    return f"needs {ranks} processes, one for each device, and here are {ranks_started()}; {remedy}"


def ranks_started() -> int:
    """How many processes the launcher has started for this cell."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)


def rank() -> int:
    """This process's number among those of the cell; the first one writes the record."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)
