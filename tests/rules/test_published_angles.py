"""Angles to the gradients of backprop on the paper's networks at 32x32, beside the figures of the specification."""

from typing import Any

import pytest
import torch
from bench import LOSS_OF, gradients_of, rule
from torch import nn

from fourfold.benchmarks.layered import lenet, simple_vgg
from fourfold.data.photographs import cifar10_jpeg
from fourfold.rules.diagnostics import Alignment, alignment, alignments, backprop_gradients
from fourfold.rules.tape import record
from fourfold.rules.targets import Pass

pytestmark = pytest.mark.slow


def network(name: str, activation: str = "elu", seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    if name == "lenet":
        return lenet((3, 32, 32), 10, [32, 64], 512, activation, 1.0)
    return simple_vgg((3, 32, 32), 10, [128, 128, 256, 256, 512], activation, 1.0)


def measured(net: nn.Sequential, size: int = 64, seed: int = 1, **values: Any) -> list[Alignment]:
    """Angle and norm ratio of each layer's weights, the lowest first, on normal noise as pictures."""
    torch.manual_seed(seed)
    x, y = torch.randn(size, 3, 32, 32).double(), torch.randint(10, (size,))
    net.double()
    found = gradients_of(rule("dtp", net, **values), net, x, y, LOSS_OF)
    exact = backprop_gradients(net, x, y, LOSS_OF)
    return [value for name, value in alignments(found, exact).items() if name.endswith("weight")]


def test_symmetric_mirror_feedback_on_simple_vgg() -> None:
    """Specification: 0.94, 0.40, 0.10, 0.04 degrees, norm ratio 0.998 to 1.005, of another draw of network and noise.

    Measured here: 1.07, 0.54, 0.14, 0.02 and ratios of 1.0001 to 1.0063.
    """
    found = measured(network("simple_vgg"), beta=0.005, iterations=0, start="symmetric")
    assert [float(one.angle) for one in found[:4]] == pytest.approx([0.94, 0.40, 0.10, 0.04], rel=0.5)
    assert all(0.998 < float(one.ratio) < 1.007 for one in found)
    assert float(found[-1].angle) < 1e-6


def test_symmetric_mirror_feedback_on_lenet_is_spoilt_by_its_overlapping_pooling() -> None:
    """Specification: 33 degrees at the first convolution, 1 to 3 at the second, on synthetic pictures."""
    found = measured(network("lenet"), beta=0.005, iterations=0, start="symmetric")
    assert 28 < float(found[0].angle) < 42
    assert 0.5 < float(found[1].angle) < 4
    assert float(found[2].angle) < 0.1


@pytest.mark.parametrize("name", ["lenet", "simple_vgg"])
@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_symmetric_gated_feedback_is_exact(name: str, activation: str) -> None:
    for one in measured(network(name, activation), 16, inversion="gated", iterations=0, start="symmetric"):
        assert float(one.angle) < 1e-6
        assert float(one.ratio) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("name", "seeds"), [("lenet", 5), ("simple_vgg", 3)])
def test_random_feedback_is_at_right_angles(name: str, seeds: int) -> None:
    """Specification: 80 to 96 degrees, the last layer 0.

    Here single draws are at 82 to 103, LeNet's second convolution the widest; their means at 89 to 92.
    """
    each = [measured(network(name, seed=seed), 32, 100 + seed, iterations=0) for seed in range(seeds)]
    for layer in zip(*each, strict=True):
        angles = [float(one.angle) for one in layer]
        if layer[-1] is each[-1][-1]:
            assert max(angles) < 1e-6
        else:
            assert all(75 < angle < 105 for angle in angles)
            assert 85 < sum(angles) / len(angles) < 95


@pytest.mark.parametrize(("inversion", "expected"), [("gated", [43.6, 13.2, 4.9]), ("mirror", [37.0, 15.4, 8.6])])
def test_automatic_rate_on_one_batch(inversion: str, expected: list[float]) -> None:
    """LeNet's second convolution, batch 64; specification, after 50, 100, 200 iterations: 45, 14, 5 and 37, 16, 10."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(32, 64, 5, padding=2), nn.ELU(), nn.MaxPool2d(3, 2, 1))
    made = rule("dtp", nn.Sequential(nn.Conv2d(1, 1, 1), block), inversion=inversion, iterations=50)
    x = torch.randn(64, 32, 16, 16)
    y, tape = record(block, x)
    found = []
    with torch.no_grad():
        for _ in range(4):
            made.steps += 1
            made.train_feedback([None, Pass(x, y, tape)])
            found.append(angle_of(made, 1))
    assert [found[0], found[1], found[3]] == pytest.approx(expected, abs=4)


def test_automatic_rate_at_the_output_layer() -> None:
    """512 to 10, batch 64, 200 iterations; specification: 16.5 degrees."""
    torch.manual_seed(0)
    made = rule("dtp", nn.Sequential(nn.Linear(512, 512), nn.ELU(), nn.Linear(512, 10)), iterations=200, noise=0.08)
    made.gradients(nn.Module(), torch.randn(64, 512), torch.randint(10, (64,)), LOSS_OF)
    assert angle_of(made, 1) == pytest.approx(16.5, abs=4)


def test_the_fastest_formulation_aligns_all_layers_of_lenet() -> None:
    """Sixteen batches of fresh noise as pictures; measured: 1.7, 17.5 and 5.1 degrees."""
    net = network("lenet")
    made = rule("fast_dtp", net)
    for number in range(16):
        torch.manual_seed(number)
        made.gradients(net, torch.randn(128, 3, 32, 32), torch.randint(10, (128,)), LOSS_OF)
    assert angle_of(made, 1) < 3
    assert angle_of(made, 2) < 25
    assert angle_of(made, 3) < 8


@pytest.mark.data
def test_alignment_curve_of_the_last_layer(real_data: str) -> None:
    """Figure 4.2, on the JPEG copy of CIFAR-10.

    Read off the figure after 500, 1000, 1500, 2000, 2500 and 5000 iterations: 77, 48, 20, 8, 3.8 and 2.8 degrees; the
    distance is 7.2 at first, 0.97 after 1000, 0.05 at the end.
    """
    made, passes, _ = theorem_test(real_data, [0, 0, 500])
    angles, distances = [], [distance_of(made, 3)]
    with torch.no_grad():
        for _ in range(10):
            made.steps += 1
            made.train_feedback(passes)
            angles.append(angle_of(made, 3))
            distances.append(distance_of(made, 3))
    assert [angles[at] for at in (0, 1, 2, 3, 4, 9)] == pytest.approx([77, 48, 20, 8, 3.8, 2.8], abs=2)
    assert [distances[at] for at in (0, 2, 10)] == pytest.approx([7.2, 0.97, 0.05], abs=0.05)


@pytest.mark.data
def test_symmetric_mirror_feedback_on_pictures(real_data: str) -> None:
    """Specification: 20 to 24 degrees at the first convolution on CIFAR-10 with the published beta, 1 to 3 above it."""
    made, passes, y = theorem_test(real_data, 0, start="symmetric")
    net = nn.Sequential(*made.blocks)
    found = gradients_of(made, net, passes[0].inputs, y, LOSS_OF)
    exact = backprop_gradients(net, passes[0].inputs, y, LOSS_OF)
    angles = [float(one.angle) for name, one in alignments(found, exact).items() if name.endswith("weight")]
    assert 19 < angles[0] < 26
    assert 1 < angles[1] < 3
    assert max(angles[2:]) < 0.1


@pytest.mark.data
@pytest.mark.timeout(3600)
def test_theorem_with_all_layers_trained(real_data: str) -> None:
    """Figure 4.3, on the JPEG copy of CIFAR-10; published, 5 seeds: 27 to 38, 6.1 to 7.6, 2.5 to 2.7 and 0 degrees.

    There each layer takes 5,000 iterations. Here the two lower ones take three of their time constants,
    1 / (20 rate noise^2 positions): 200 iterations and 500. Some ten minutes of one core; 5,000 of all would take an
    hour. The labels are the pictures' own: with labels drawn at random even symmetric feedback is 5 to 10 degrees
    further off at the first convolution (24 to 26, and 28 to 36, over five networks).
    """
    made, passes, y = theorem_test(real_data, [600, 1500, 5000])
    net = nn.Sequential(*made.blocks)
    made.steps += 1
    with torch.no_grad():
        made.train_feedback(passes)
    made.iterations = dict.fromkeys(made.iterations, 0)
    found = gradients_of(made, net, passes[0].inputs, y, LOSS_OF)
    exact = backprop_gradients(net, passes[0].inputs, y, LOSS_OF)
    angles = [float(one.angle) for name, one in alignments(found, exact).items() if name.endswith("weight")]
    assert 20 < angles[0] < 40
    assert 4 < angles[1] < 10
    assert 1 < angles[2] < 4
    assert angles[3] < 1e-3


def theorem_test(real_data: str, iterations: Any, **more: Any) -> tuple[Any, list[Pass], torch.Tensor]:
    """Rule dtp on LeNet with the published values; the passes of one batch of 256 pictures, and their labels."""
    batch = cifar10_jpeg(real_data, 0, "cifar10_jpeg", samples=256).train.batch(torch.arange(256))
    pictures = batch.inputs
    x = (pictures - pictures.mean((0, 2, 3), keepdim=True)) / pictures.std((0, 2, 3), keepdim=True)
    values = {"iterations": iterations, "noise": [0.2, 0.2, 0.1], "feedback_rate": [1e-4, 2.5e-3, 0.01]}
    made = rule("dtp", network("lenet"), beta=0.4655, **values, **more)
    return made, made.forward(x), batch.targets


def distance_of(made: Any, n: int) -> float:
    """|feedback - forward| / |forward|, of weights."""
    feedback, forward = made.feedback[n].weights[0], made.feedback[n].layers[0].weight.detach()
    return float((feedback - forward).norm() / forward.norm())


def angle_of(made: Any, n: int) -> float:
    """The angle between feedback and forward weights."""
    return float(alignment(made.feedback[n].weights[0], made.feedback[n].layers[0].weight).angle)
