"""Rules in 16 bits: they run on every kind of network, keep their small differences, and look at unscaled gradients."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from bench import LOSS_OF, gradients_of, pictures
from torch import nn

from fourfold.benchmarks.layered import lenet, simple_vgg
from fourfold.errors import Refused
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine
from fourfold.measure.meter import Meter
from fourfold.rules import interface as rules
from fourfold.rules.diagnostics import alignments, backprop_gradients
from fourfold.rules.watched import Watched
from learning import engine, member, names

RULES = [name for name in names("method/rule") if name != "none"]
ONE = {"iterations": 1, "samples": 1}


@lru_cache(maxsize=3)
def engine_of(precision: str, scale: float = 16.0) -> Engine:
    """An engine that scales losses, with fp16, by this much (torch begins with 65536 and halves it)."""
    made = Engine(acquire(member("hardware/cpu")), precision, "auto")
    if precision == "fp16":
        made.fabric.strategy.precision.scaler._init_scale = scale
    return made


def prepared(name: str, net: nn.Module, made_with: Engine, **values: Any) -> Any:
    node = dict(member(f"method/rule/{name}"))
    short = {key: value for key, value in ONE.items() if node.get(key)}
    made = rules.build({**node, **short, **values}, made_with)
    assert made is not None
    made.prepare(net)
    return made


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return lenet((3, 8, 8), 5, [4, 6], 12, "elu", 1.0)


WAYS = [(name, {}) for name in RULES] + [
    ("dtp", {"inversion": "gated"}),
    ("dtp", {"formulation": "reference"}),
    ("dtp", {"formulation": "solve", "inversion": "gated", "iterations": 20}),
    ("parallel_dtp", {"inversion": "gated"}),
]


@pytest.mark.parametrize(("name", "values"), WAYS, ids=str)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_every_rule_takes_steps_on_convolutions_in_16_bits(name: str, values: dict[str, Any], precision: str) -> None:
    net = small()
    made = prepared(name, net, engine_of(precision), **values)
    x, y = pictures(dtype=torch.float32)
    for _ in range(2):
        found = gradients_of(made, net, x, y, LOSS_OF)
        assert found.keys() == dict(net.named_parameters()).keys()
        assert all(bool(torch.isfinite(gradient).all()) for gradient in found.values())
    made.feedback_losses(x)


@pytest.mark.parametrize("inversion", ["mirror", "gated"])
def test_targets_are_not_lost_in_rounding(inversion: str) -> None:
    """Symmetric feedback on SimpleVGG: what bfloat16 adds to the angle is little, in the targets' differences too."""
    angles = {}
    for made_with in (engine(), engine_of("bf16")):
        torch.manual_seed(0)
        net = simple_vgg((3, 32, 32), 10, [8, 8, 16, 16, 32], "elu", 1.0)
        x, y = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
        with made_with.autocast():
            exact = backprop_gradients(net, x, y, LOSS_OF)
        made = prepared("dtp", net, made_with, inversion=inversion, iterations=0, start="symmetric")
        found = alignments(gradients_of(made, net, x, y, LOSS_OF), exact)
        angles[made_with.precision] = float(found["0.0.weight"].angle)
    assert angles["fp32"] < 3
    assert angles["bf16"] < angles["fp32"] + 3


@pytest.mark.parametrize("name", ["backprop", "dtp", "direct_feedback_alignment", "feedback_alignment"])
def test_loss_scaling_is_not_seen_in_the_norms(name: str) -> None:
    """With fp16 ``.grad`` is 16 times the gradient; the look is at the gradient."""
    ratios = {}
    for precision in ("fp32", "fp16"):
        net = small()
        made_with = engine() if precision == "fp32" else engine_of("fp16")
        assert made_with.gradient_scale() == {"fp32": 1.0, "fp16": 16.0}[precision]
        watched = Watched(prepared(name, net, made_with), 1, Meter(torch.device("cpu"), "images"))
        watched.meter.start()
        x, y = pictures(dtype=torch.float32)
        watched.gradients(net, x, y, LOSS_OF)
        ratios[precision] = {key: float(value[0]) for key, value in watched.series().items() if "norm_ratio" in key}
    assert len(ratios["fp16"]) == 4
    assert ratios["fp16"] == pytest.approx(ratios["fp32"], rel=0.05)


def test_errors_below_what_16_bits_hold_still_teach() -> None:
    """Errors of 1e-9 are 0 in float16; scaled before their way back through the layers they are not."""
    net = small()
    made = prepared("dtp", net, engine_of("fp16", 65536.0), iterations=0, start="symmetric", inversion="gated")
    x, y = pictures(dtype=torch.float32)
    found = gradients_of(made, net, x, y, lambda outputs, targets: 1e-8 * LOSS_OF(outputs, targets))
    exact = backprop_gradients(net, x, y, LOSS_OF)
    for name, one in alignments(found, exact).items():
        assert float(one.angle) < 5, name
        assert float(one.ratio) == pytest.approx(1e-8 * 65536, rel=0.05)


@pytest.mark.parametrize("name", ["dtp", "fast_dtp", "drl", "ddtp_linear", "pepita"])
def test_weights_in_16_bits_are_refused_where_small_differences_count(name: str) -> None:
    made_with = Engine(acquire(member("hardware/cpu")), "bf16", "auto", weights="bf16")
    with pytest.raises(Refused, match=r"^rule \w+ learns from small differences, .* weights_precision=bf16 goes"):
        prepared(name, small().bfloat16(), made_with)
