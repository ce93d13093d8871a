"""DINOv2: a student learns, from other views of a picture, what its averaged teacher says (Oquab et al. 2024)."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, SupervisedObjective, Term
from fourfold.benchmarks.teachers import averaged_copy, follow
from fourfold.randomness import generator
from fourfold.recipe import Recipe

GLOBAL_CROPS = 2
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.07
KOLEO_WEIGHT = 0.1  # Oquab et al. 2024, section 4
MASKED_SHARE, MASK_RATIO = 0.5, (0.1, 0.5)  # half of the global crops are masked, a tenth to a half of each


class SelfDistillation(Benchmark):
    """DINOv2's training. Units are pictures, not crops. There is no held-out measure without a probe."""

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = DinoObjective(recipe.model, seed)


class DinoObjective(SupervisedObjective):
    """Multi-crop views and masks of each batch; after the update the teacher follows. ``drawn`` is all the state.

    Crops are cut, resized and flipped on the device; colour jitter and blur are left out.
    """

    def __init__(self, model: Mapping[str, Any], seed: int) -> None:
        super().__init__(dino_loss)
        self.model = model
        self.seed = seed
        self.drawn = 0

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        draw = generator(self.seed, "views", self.drawn)
        self.drawn += 1
        shape, pictures = self.model, batch.inputs
        patches = (shape["global_size"] // shape["patch"]) ** 2
        masks = token_masks(GLOBAL_CROPS * len(pictures), patches, draw)
        inputs = {
            "global": random_crops(pictures, GLOBAL_CROPS, shape["global_size"], (0.32, 1.0), draw),
            "local": random_crops(pictures, shape["local_crops"], shape["local_size"], (0.05, 0.32), draw),
            "masks": masks.to(pictures.device, non_blocking=True),
            "masked": masks.flatten().nonzero().flatten().to(pictures.device, non_blocking=True),
        }
        weights = (1.0 / masks.sum(1).clamp(min=1)).repeat_interleave(masks.sum(1))
        yield Term("all", inputs, weights.to(pictures.device, non_blocking=True), self.loss_of)

    def after_update(self, network: nn.Module) -> None:
        follow(network.teacher, network.student, self.model["momentum"])  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


def random_crops(pictures: Tensor, count: int, size: int, area: tuple[float, float], draw: torch.Generator) -> Tensor:
    """``count`` crops of each picture [batch, channels, height, width]: a share of its area drawn between ``area``,
    an aspect ratio between 3/4 and 4/3, resized to ``size``, half of them mirrored.

    Returns [count * batch, channels, size, size], the first crop of every picture first.
    """
    total = count * len(pictures)
    chance = torch.rand(5, total, generator=draw)
    share = area[0] + chance[0] * (area[1] - area[0])
    aspect = torch.exp((chance[1] * 2 - 1) * math.log(4 / 3))
    width, height = (share * aspect).sqrt().clamp(max=1), (share / aspect).sqrt().clamp(max=1)
    mirrored = torch.where(chance[4] < 0.5, -1.0, 1.0)
    left, top = (chance[2] * 2 - 1) * (1 - width), (chance[3] * 2 - 1) * (1 - height)
    zero = torch.zeros(total)
    rows = [torch.stack([width * mirrored, zero, left], 1), torch.stack([zero, height, top], 1)]
    transform = torch.stack(rows, 1).to(pictures.device, non_blocking=True)
    grid = F.affine_grid(transform, [total, pictures.shape[1], size, size], align_corners=False)
    return F.grid_sample(pictures.repeat(count, 1, 1, 1), grid, padding_mode="border", align_corners=False)


def token_masks(crops: int, patches: int, draw: torch.Generator) -> Tensor:
    """[crops, patches], true where the student does not see a patch. Ratios are spread evenly over the masked crops,
    so that every batch of a size has the same number of masked patches."""
    masked = max(1, round(crops * MASKED_SHARE))
    masks = torch.zeros(crops, patches, dtype=torch.bool)
    which = torch.randperm(crops, generator=draw)[:masked]
    for crop, ratio in zip(which.tolist(), torch.linspace(*MASK_RATIO, masked).tolist(), strict=True):
        masks[crop, torch.randperm(patches, generator=draw)[: max(1, int(ratio * patches))]] = True
    return masks


def dino_loss(outputs: Mapping[str, Tensor], weights: Tensor, reduction: str = "mean") -> Tensor:
    """DINO on crops + iBOT on masked patches + 0.1 KoLeo on the features of each global crop. There is no loss of a
    single sample: KoLeo and the teacher's normalisation are of the batch."""
    assert reduction == "mean", "DINOv2 has no loss of a single sample"
    crops = crop_loss(outputs["student"], outputs["teacher"])
    patches = patch_loss(outputs["student_patches"], outputs["teacher_patches"], weights, len(outputs["teacher"]))
    spread = sum(koleo_loss(features) for features in outputs["features"].chunk(GLOBAL_CROPS))
    return crops + patches + KOLEO_WEIGHT * spread


def crop_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean cross entropy over all pairs of a teacher's global crop and another crop of the student.

    student: [(2 + local) * batch, prototypes], teacher: [2 * batch, prototypes], both crop by crop (Caron et al. 2021).
    """
    wanted = sinkhorn(teacher, TEACHER_TEMPERATURE).chunk(GLOBAL_CROPS)
    batch = len(wanted[0])
    said = F.log_softmax(student.float() / STUDENT_TEMPERATURE, dim=-1).split(batch)
    pairs = [(one, other) for one in range(len(wanted)) for other in range(len(said)) if one != other]
    return -sum((wanted[one] * said[other]).sum(-1).mean() for one, other in pairs) / len(pairs)


def patch_loss(student: Tensor, teacher: Tensor, weights: Tensor, crops: int) -> Tensor:
    """Cross entropy of masked patches, averaged within each crop by ``weights`` [masked] and over all ``crops``
    (Zhou et al. 2022); student and teacher: [masked, prototypes]."""
    said = F.log_softmax(student.float() / STUDENT_TEMPERATURE, dim=-1)
    losses = -(sinkhorn(teacher, TEACHER_TEMPERATURE) * said).sum(-1)
    return (losses * weights).sum() / crops


def koleo_loss(features: Tensor) -> Tensor:
    """-mean log distance to the nearest other feature, on the unit sphere: spreads a batch evenly (Sablayrolles et al.
    2019); features [batch, width]. 0 for a batch of one."""
    if len(features) < 2:
        return features.new_zeros(())
    unit = F.normalize(features.float(), dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.t()).fill_diagonal_(-2.0).argmax(1)
    return -torch.log(F.pairwise_distance(unit, unit[nearest], eps=1e-8) + 1e-8).mean()


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Soft assignments [samples, prototypes] that use all prototypes equally, over all ranks (Caron et al. 2020):
    each iteration scales prototypes, then samples, to equal sums."""
    shares = torch.exp(scores.float() / temperature)
    samples = _over_ranks(torch.tensor(float(len(scores)), device=scores.device))
    shares = shares / _over_ranks(shares.sum())
    for _ in range(iterations):
        shares = shares / (_over_ranks(shares.sum(0)) * shares.shape[1]).clamp(min=1e-30)
        shares = shares / (shares.sum(1, keepdim=True) * samples)
    return shares * samples


def _over_ranks(total: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
    return total


class Head(nn.Module):
    """Three layers to a bottleneck on the unit sphere, then the cosine with each prototype: [..., prototypes]."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for part in self.layers:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        nn.init.normal_(self.prototypes)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(features), dim=-1), F.normalize(self.prototypes, dim=-1))


class Pupil(nn.Module):
    """A backbone with a head for crops and a head for patches."""

    def __init__(self, backbone: nn.Module, crops: Head, patches: Head) -> None:
        super().__init__()
        self.backbone, self.crops, self.patches = backbone, crops, patches


class StudentAndTeacher(nn.Module):
    """Both in one forward pass, so that both run in its precision."""

    def __init__(self, student: Pupil) -> None:
        super().__init__()
        self.student = student
        self.teacher = averaged_copy(student)

    def train(self, mode: bool = True) -> "StudentAndTeacher":
        """The teacher never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Any:
        """Views and masks to what the losses compare: scores of crops and of masked patches, features of crops.

        Whole pictures [batch, channels, height, width] to the teacher's features [batch, width].
        """
        if isinstance(inputs, Tensor):
            return self.teacher.backbone(inputs).last_hidden_state[:, 0]  # type: ignore[operator]
        views, masked = inputs["global"], inputs["masked"]
        with torch.no_grad():
            teacher_crops, teacher_patches, _ = _scores(self.teacher, views, None, masked)
        crops, patches, features = _scores(self.student, views, inputs["masks"], masked)
        local = self.student.crops(self.student.backbone(inputs["local"]).last_hidden_state[:, 0])
        return {
            "student": torch.cat([crops, local]),
            "teacher": teacher_crops,
            "student_patches": patches,
            "teacher_patches": teacher_patches,
            "features": features,
        }


def _scores(pupil: Any, views: Tensor, masks: Tensor | None, masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [crops, prototypes], scores of the patches numbered ``masked``, features [crops, width]."""
    states = pupil.backbone(views, bool_masked_pos=masks).last_hidden_state
    features = states[:, 0]
    return pupil.crops(features), pupil.patches(states[:, 1:].flatten(0, 1)[masked]), features


def dinov2(
    hidden: int,
    layers: int,
    heads: int,
    patch: int,
    drop_path: float,
    head_hidden: int,
    crop_bottleneck: int,
    patch_bottleneck: int,
    prototypes: int,
    global_size: int,
    local_size: int,
    local_crops: int,
    momentum: float,
) -> nn.Module:
    """DINOv2's student and teacher; the backbone with SwiGLU is transformers' implementation."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=global_size,
        patch_size=patch,
        drop_path_rate=drop_path,
        layerscale_value=1e-5,
        use_swiglu_ffn=True,
    )
    crops = Head(hidden, head_hidden, crop_bottleneck, prototypes)
    patches = Head(hidden, head_hidden, patch_bottleneck, prototypes)
    return StudentAndTeacher(Pupil(Dinov2Model(config), crops, patches))
