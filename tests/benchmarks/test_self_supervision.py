"""DINOv2's and V-JEPA's views, masks, losses and averaged teachers, computed by hand."""

import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from fourfold.benchmarks import self_distillation as dino
from fourfold.benchmarks import video
from fourfold.benchmarks.teachers import averaged_copy, follow
from fourfold.randomness import generator

# Two samples with mirrored scores for two prototypes: already balanced, so that Sinkhorn leaves their softmax as it is.
TEACHER = torch.tensor([[0.07, 0.0], [0.0, 0.07]])
SURE = math.e / (math.e + 1)  # softmax of (1, 0): the teacher's temperature is 0.07


def log_softmax(scores: list[float]) -> list[float]:
    total = math.log(sum(math.exp(score / 0.1) for score in scores))
    return [score / 0.1 - total for score in scores]


def cross_entropy(first: float, scores: list[float]) -> float:
    """Of a teacher that gives ``first`` to the first prototype, with a student's two scores."""
    said = log_softmax(scores)
    return -(first * said[0] + (1 - first) * said[1])


def test_sinkhorn_keeps_what_is_balanced_and_balances_what_is_not():
    assert dino.sinkhorn(TEACHER, 0.07)[0].tolist() == pytest.approx([SURE, 1 - SURE])
    shares = dino.sinkhorn(torch.tensor([[0.2, 0.0], [0.1, 0.0]]), 0.07, iterations=50)
    assert shares.sum(1).tolist() == pytest.approx([1, 1])
    assert shares.sum(0).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_the_crop_loss_is_the_mean_over_pairs_of_different_crops():
    student = [[0.3, 0.1], [0.0, 0.2], [0.5, 0.4]]  # two global crops and a local one, of one picture
    pairs = [(SURE, student[1]), (SURE, student[2]), (1 - SURE, student[0]), (1 - SURE, student[2])]
    by_hand = sum(cross_entropy(first, scores) for first, scores in pairs) / 4
    assert float(dino.crop_loss(torch.tensor(student), TEACHER)) == pytest.approx(by_hand, rel=1e-5)


def test_the_patch_loss_weighs_masked_patches_and_counts_all_crops():
    student = [[0.3, 0.1], [0.0, 0.2]]
    by_hand = (0.5 * cross_entropy(SURE, student[0]) + 1.0 * cross_entropy(1 - SURE, student[1])) / 4
    found = dino.patch_loss(torch.tensor(student), TEACHER, torch.tensor([0.5, 1.0]), crops=4)
    assert float(found) == pytest.approx(by_hand, rel=1e-5)


def test_koleo_is_the_mean_log_distance_to_the_nearest_neighbour():
    degrees = torch.tensor([0.0, 60.0, 200.0])
    angles = degrees * math.pi / 180
    features = 3 * torch.stack([angles.cos(), angles.sin()], 1)  # of any length: only directions count
    chords = [2 * math.sin(math.radians(angle) / 2) for angle in (60, 60, 140)]
    by_hand = -sum(math.log(chord) for chord in chords) / 3
    assert float(dino.koleo_loss(features)) == pytest.approx(by_hand, rel=1e-5)
    assert float(dino.koleo_loss(features[:1])) == 0


def test_the_loss_is_the_sum_of_its_three_terms():
    torch.manual_seed(0)
    outputs = {
        "student": torch.randn(8, 6),  # two pictures, two global and two local crops
        "teacher": torch.randn(4, 6),
        "student_patches": torch.randn(3, 6),
        "teacher_patches": torch.randn(3, 6),
        "features": torch.randn(4, 5),
    }
    weights = torch.tensor([0.5, 0.5, 1.0])
    crops = dino.crop_loss(outputs["student"], outputs["teacher"])
    patches = dino.patch_loss(outputs["student_patches"], outputs["teacher_patches"], weights, 4)
    spread = dino.koleo_loss(outputs["features"][:2]) + dino.koleo_loss(outputs["features"][2:])
    assert min(abs(float(term)) for term in (crops, patches, spread)) > 0.01
    assert float(dino.dino_loss(outputs, weights)) == pytest.approx(float(crops + patches + 0.1 * spread), rel=1e-5)


def test_crops_have_their_size_and_stay_within_the_picture():
    pictures = torch.stack([torch.full((3, 16, 16), value) for value in (0.25, 0.75)])
    crops = dino.random_crops(pictures, 3, 8, (0.1, 0.5), generator(0, "crops"))
    assert crops.shape == (6, 3, 8, 8)
    assert crops.mean((1, 2, 3)).tolist() == pytest.approx([0.25, 0.75] * 3)  # crop by crop, the pictures in order
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    small = dino.random_crops(ramp, 64, 8, (0.05, 0.1), generator(0, "crops"))
    widths = (small.amax((1, 2, 3)) - small.amin((1, 2, 3))).tolist()
    assert max(widths) < 0.5, "a twentieth to a tenth of the area is at most 0.37 of the width"
    rising = small[:, 0, 0, -1] > small[:, 0, 0, 0]
    assert 16 < int(rising.sum()) < 48, "about half are mirrored"


def test_half_of_the_global_crops_are_masked_by_a_tenth_to_a_half():
    masks = dino.token_masks(8, 100, generator(0, "masks"))
    assert sorted(masks.sum(1).tolist()) == [0, 0, 0, 0, 10, 23, 36, 50]


def test_a_teacher_follows_and_no_gradient_reaches_it():
    student = nn.Linear(1, 1, bias=False)
    teacher = averaged_copy(student)
    with torch.no_grad():
        teacher.weight.fill_(1.0)
        student.weight.fill_(3.0)
    follow(teacher, student, momentum=0.75)
    assert teacher.weight.item() == pytest.approx(1.5)
    assert not teacher.weight.requires_grad
    assert student.weight.item() == 3.0


@pytest.mark.parametrize("kind", ["dinov2", "vjepa"])
def test_the_teacher_follows_after_each_update(kind: str) -> None:
    """Of a student moved from 1 to 3, a teacher of momentum 0.9 goes to 1.2."""
    network = nn.Module()
    one = nn.Linear(2, 2)
    nn.init.ones_(one.weight)
    if kind == "dinov2":
        objective = dino.DinoObjective({"momentum": 0.9}, 0)
        network.student, network.teacher = one, averaged_copy(one)
        teacher = network.teacher
    else:
        objective = video.LatentObjective({"momentum": 0.9}, 0)
        network.model = nn.Module()
        network.model.encoder, network.target = one, averaged_copy(one)
        teacher = network.target
    nn.init.constant_(one.weight, 3.0)
    objective.after_update(network)
    torch.testing.assert_close(teacher.weight, torch.full((2, 2), 1.2))


def small_vjepa() -> video.PredictorAndTarget:
    torch.manual_seed(0)
    words = {"image_size": 32, "patch": 8, "frames": 4, "tubelet": 2, "momentum": 0.9}
    return video.vjepa(36, 2, 2, 24, 1, 2, **words)  # type: ignore[return-value]


def test_masks_share_out_every_patch():
    shown, hidden = video.block_masks(3, 4, 2, 2, 0.3, generator(0, "blocks"))
    for one, other in zip(shown.tolist(), hidden.tolist(), strict=True):
        assert not set(one) & set(other)
        assert one == sorted(one)
        assert {place % 16 for place in other} <= {place % 16 for place in range(16)} - {p % 16 for p in one}
    alone, rest = video.block_masks(1, 4, 2, 2, 0.3, generator(0, "blocks"))
    assert sorted(alone[0].tolist() + rest[0].tolist()) == list(range(32))


def test_the_latent_loss_is_the_mean_absolute_difference_over_masks():
    outputs = [
        (torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 4.0]]])),  # (1 + 2) / 2
        (torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 2.0]]])),  # (0 + 1) / 2
    ]
    assert float(video.latent_loss(outputs, None)) == pytest.approx((1.5 + 0.5) / 2)
    assert video.latent_loss(outputs, None, reduction="none").tolist() == pytest.approx([1.0])


def test_what_is_hidden_does_not_reach_the_encoder_but_the_target_sees_it():
    network = small_vjepa()
    shown, hidden = video.block_masks(1, 4, 2, 1, 0.3, generator(0, "blocks"))
    clips = torch.randn(1, 4, 3, 32, 32)
    changed = clips.clone()
    place = int(hidden[0, 0]) % 16
    top, left = 8 * (place // 4), 8 * (place % 4)
    changed[:, :, :, top : top + 8, left : left + 8] += 1
    with torch.no_grad():
        assert torch.equal(network.encode(clips, shown), network.encode(changed, shown))
        inputs = {f"{name}{index}": mask for index in (0, 1) for name, mask in (("shown", shown), ("hidden", hidden))}
        before, after = (network({"clips": given, **inputs})[0] for given in (clips, changed))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_targets_are_normalised_and_have_no_gradient():
    network = small_vjepa()
    with torch.no_grad():  # a target encoder that has learned: its own last normalisation scales and shifts
        network.target.layernorm.weight.fill_(3.0)  # type: ignore[union-attr]
        network.target.layernorm.bias.fill_(1.0)  # type: ignore[union-attr]
    shown, hidden = video.block_masks(2, 4, 2, 1, 0.3, generator(0, "blocks"))
    inputs = {f"{name}{index}": mask for index in (0, 1) for name, mask in (("shown", shown), ("hidden", hidden))}
    said, wanted = network({"clips": torch.randn(2, 4, 3, 32, 32), **inputs})[0]
    assert said.shape == wanted.shape == (2, hidden.shape[1], 36)
    assert said.requires_grad
    assert not wanted.requires_grad
    assert wanted.mean(-1).abs().max() < 1e-5
    assert wanted.var(-1, correction=0).sub(1).abs().max() < 1e-3


def half_of_a_batch(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    scores = torch.load(f"{folder}/scores.pt")
    torch.save(dino.sinkhorn(scores.chunk(2)[rank], 0.07), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_sinkhorn_balances_over_all_ranks(tmp_path: Path):
    scores = torch.rand(6, 4, generator=generator(0, "scores")) / 5
    torch.save(scores, tmp_path / "scores.pt")
    multiprocessing.spawn(half_of_a_batch, args=(str(tmp_path),), nprocs=2)
    found = torch.cat([torch.load(tmp_path / f"{rank}.pt") for rank in range(2)])
    torch.testing.assert_close(found, dino.sinkhorn(scores, 0.07))
