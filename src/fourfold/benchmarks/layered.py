"""Networks of the target-propagation papers: a sequence of blocks, with a target between each two of them."""

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
VGG_SIDE = 32  # five poolings by 2 leave one position of this


class Residual(nn.Module):
    """activation(main(x) + shortcut(x)) (He et al. 2016)."""

    def __init__(self, main: nn.Sequential, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        return self.activation(self.main(inputs) + self.shortcut(inputs))


def lenet(
    shape: Sequence[int], outputs: int, channels: Sequence[int], hidden: int, activation: str, width: float
) -> nn.Sequential:
    """Blocks of convolution 5x5, activation, max-pooling 3/2/1; one hidden layer; the outputs (Ernoult et al. 2022).

    [batch, *shape] -> [batch, outputs]. The pooling windows overlap.
    """
    act = ACTIVATIONS[activation]
    blocks: list[nn.Module] = []
    into, (height, breadth) = shape[0], shape[1:]
    for count in channels:
        out = max(1, round(count * width))
        blocks.append(nn.Sequential(nn.Conv2d(into, out, 5, padding=2), act(), nn.MaxPool2d(3, 2, 1)))
        into, height, breadth = out, (height + 1) // 2, (breadth + 1) // 2
    units = max(1, round(hidden * width))
    blocks.append(nn.Sequential(nn.Flatten(), nn.Linear(into * height * breadth, units), act()))
    blocks.append(nn.Sequential(nn.Linear(units, outputs)))
    return nn.Sequential(*blocks)


def simple_vgg(
    shape: Sequence[int], outputs: int, channels: Sequence[int], activation: str, width: float
) -> nn.Sequential:
    """Blocks of convolution 3x3, activation, max-pooling 2/2; then the outputs (Ernoult et al. 2022).

    [batch, *shape] -> [batch, outputs]. Pictures smaller than 32x32 get a margin of zeros.
    """
    act = ACTIVATIONS[activation]
    margin, height, breadth = _margin(shape)
    blocks: list[nn.Module] = []
    into = shape[0]
    for count in channels:
        out = max(1, round(count * width))
        first = margin if not blocks else []
        blocks.append(nn.Sequential(*first, nn.Conv2d(into, out, 3, padding=1), act(), nn.MaxPool2d(2)))
        into, height, breadth = out, height // 2, breadth // 2
    blocks.append(nn.Sequential(nn.Flatten(), nn.Linear(into * height * breadth, outputs)))
    return nn.Sequential(*blocks)


def residual_network(
    shape: Sequence[int],
    outputs: int,
    channels: Sequence[int],
    depths: Sequence[int],
    activation: str,
    normalisation: bool,
    width: float,
) -> nn.Sequential:
    """A stem, one block a stage of basic residual blocks, global average pooling and outputs (He et al. 2016).

    [batch, *shape] -> [batch, outputs]. All stages but the first halve the sides. A stage is one site of targets.
    """
    sizes = [max(1, round(count * width)) for count in channels]
    stem = _convolution(shape[0], sizes[0], 3, 1, normalisation)
    blocks: list[nn.Module] = [nn.Sequential(*stem, ACTIVATIONS[activation]())]
    into = sizes[0]
    for number, (out, depth) in enumerate(zip(sizes, depths, strict=True)):
        stage = []
        for position in range(depth):
            stride = 2 if number and not position else 1
            stage.append(_basic(into, out, stride, activation, normalisation))
            into = out
        blocks.append(nn.Sequential(*stage))
    blocks.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, outputs)))
    return nn.Sequential(*blocks)


def _basic(into: int, out: int, stride: int, activation: str, normalisation: bool) -> Residual:
    act = ACTIVATIONS[activation]
    main = nn.Sequential(
        *_convolution(into, out, 3, stride, normalisation), act(), *_convolution(out, out, 3, 1, normalisation)
    )
    same = stride == 1 and into == out
    shortcut = nn.Identity() if same else nn.Sequential(*_convolution(into, out, 1, stride, normalisation))
    return Residual(main, shortcut, act())


def _convolution(into: int, out: int, size: int, stride: int, normalisation: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(into, out, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out)] if normalisation else [convolution]


def _margin(shape: Sequence[int]) -> tuple[list[nn.Module], int, int]:
    """Zeros around small pictures, and the sides that result."""
    height, breadth = shape[1:]
    down, right = max(0, VGG_SIDE - height), max(0, VGG_SIDE - breadth)
    if not down and not right:
        return [], height, breadth
    sides = (right // 2, right - right // 2, down // 2, down - down // 2)
    return [nn.ZeroPad2d(sides)], height + down, breadth + right
