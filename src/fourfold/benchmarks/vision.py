"""Image classification: from 8x8 digits to ConvNeXt and RegNetY."""

from torch import Tensor, nn

from fourfold.benchmarks.classification import Classification


class ImageClassification(Classification):
    """Pictures [batch, channels, height, width] to scores [batch, classes]."""


class Scores(nn.Module):
    """A transformers image model as a plain function of pictures."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(pixel_values=pictures).logits


def resnet(
    shape: tuple[int, ...], outputs: int, embedding: int, widths: list[int], depths: list[int], bottleneck: bool
) -> nn.Module:
    """ResNet (He et al. 2016), transformers' implementation; ``outputs`` classes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=shape[0],
        embedding_size=embedding,
        hidden_sizes=widths,
        depths=depths,
        layer_type="bottleneck" if bottleneck else "basic",
    )
    config.num_labels = outputs
    return Scores(ResNetForImageClassification(config))


def convnext(shape: tuple[int, ...], outputs: int, widths: list[int], depths: list[int]) -> nn.Module:
    """ConvNeXt (Liu et al. 2022), transformers' implementation; ``outputs`` classes."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(num_channels=shape[0], hidden_sizes=widths, depths=depths)
    config.num_labels = outputs
    return Scores(ConvNextForImageClassification(config))


def regnet(
    shape: tuple[int, ...], outputs: int, embedding: int, widths: list[int], depths: list[int], group_width: int
) -> nn.Module:
    """RegNetY (Radosavovic et al. 2020), transformers' implementation; ``outputs`` classes."""
    from transformers import RegNetConfig, RegNetForImageClassification

    config = RegNetConfig(
        num_channels=shape[0],
        embedding_size=embedding,
        hidden_sizes=widths,
        depths=depths,
        groups_width=group_width,
        layer_type="y",
    )
    config.num_labels = outputs
    return Scores(RegNetForImageClassification(config))


def focalnet(
    shape: tuple[int, ...], outputs: int, embedding: int, depths: list[int], levels: list[int], windows: list[int]
) -> nn.Module:
    """FocalNet (Yang et al. 2022), transformers' implementation; ``outputs`` classes. Each stage doubles the width."""
    from transformers import FocalNetConfig, FocalNetForImageClassification

    config = FocalNetConfig(
        num_channels=shape[0],
        image_size=shape[-1],
        embed_dim=embedding,
        depths=depths,
        focal_levels=levels,
        focal_windows=windows,
    )
    config.num_labels = outputs
    return Scores(FocalNetForImageClassification(config))
