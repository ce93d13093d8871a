"""A network as the rules see it: linear maps, and a sequence of blocks between which targets and errors can arrive."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fourfold import randomness
from fourfold.errors import Refused
from fourfold.hardware.engine import Engine

LinearMap = nn.Linear | nn.Conv2d
SHAPE_ONLY = (nn.Flatten, nn.Unflatten, nn.Identity, nn.ZeroPad2d)


def linear_maps(network: nn.Module) -> dict[str, LinearMap]:
    """The fully connected layers and convolutions of a network by name, in the order of their definition.

    Raises Refused for a convolution that pads with anything but a number of zeros.
    """
    found: dict[str, LinearMap] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
                raise Refused(f"layer {name}: learning rules know convolutions with a number of zeros as padding only")
            found[name] = module
    return found


def blocks_of(network: nn.Module, rule: str) -> list[nn.Sequential]:
    """The network cut into blocks, each one linear map and what follows it up to the next.

    A child that is a sequence or a module of its own (a residual stage) is a block as it is. A bare linear map begins a
    block; layers that only change the shape belong to what follows. The blocks share the network's own layers.

    Raises Refused if the network is not a plain sequence of layers.
    """
    if not isinstance(network, nn.Sequential):
        raise Refused(f"rule {rule} needs a plain sequence of layers (nn.Sequential), not {type(network).__name__}")
    blocks: list[list[nn.Module]] = []
    waiting: list[nn.Module] = []
    for child in network:
        composite = any(True for _ in child.children())
        if composite or isinstance(child, nn.Linear | nn.Conv2d):
            blocks.append([*waiting, child])
            waiting = []
        elif not blocks or waiting or isinstance(child, SHAPE_ONLY):
            waiting.append(child)
        else:
            blocks[-1].append(child)
    if not blocks:
        raise Refused(f"rule {rule} needs a network with layers to train")
    blocks[-1] += waiting
    return [nn.Sequential(*block) for block in blocks]


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested sequences in the order of their use; a module of another kind is given as it is."""
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from leaves(child)
    else:
        yield module


def named(layer: nn.Module) -> str:
    """What a kind of layer is called: by its name, with the package of one that is not torch's own."""
    package = type(layer).__module__.partition(".")[0]
    return type(layer).__name__ if package == "torch" else f"{package} {type(layer).__name__}"


def on_one_device(engine: Engine, rule: str) -> None:
    """Raises Refused where several devices share the work: such a rule's gradients are not averaged over them."""
    if not engine.alone:
        raise Refused(f"rule {rule} trains on one device; several need rule backprop")


def with_32_bit_weights(engine: Engine, rule: str) -> None:
    """Raises Refused where weights are held in 16 bits, for a rule that learns from small differences."""
    if engine.weights != "fp32":
        raise Refused(
            f"rule {rule} learns from small differences, which 16 bits round away; weights_precision={engine.weights} "
            "goes with others, and precision=bf16 with this one"
        )


def random_stream(device: torch.device | str, *names: str | int) -> torch.Generator:
    """A generator named within this cell: the seed that the cell gave to torch, and the names, decide its numbers."""
    seed = randomness.seed_of(torch.initial_seed(), "rule", *names)
    return torch.Generator(device=device).manual_seed(seed)


def initial_weights(weight: Tensor, generator: torch.Generator, fan: int | None = None) -> Tensor:
    """Random weights of the shape of ``weight`` as torch draws them at first: uniform within 1/sqrt(fan-in).

    Drawn on the CPU, so that they do not depend on the device.
    """
    fan = fan or math.prod(weight.shape[1:])
    bound = 1 / math.sqrt(fan)
    drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
    return drawn.to(weight)


def grown(old: Tensor, fresh: Tensor) -> Tensor:
    """``fresh`` with the values of ``old`` where both have a place: what a larger layer keeps of its feedback."""
    made = fresh.clone()
    made[tuple(slice(0, size) for size in old.shape)] = old
    return made
