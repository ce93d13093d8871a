"""Published values under conf/tuned/rule: the step that they ask for is the one that was published."""

from typing import Any

import pytest
import torch
import yaml
from bench import LOSS_OF, batch, rule, two_layers

from fourfold.composition import config_directory
from learning import member

# (rule, network, data) -> the published learning rate of the network; momentum 0.9 and decay 1e-4 for all
# (specification, section 2.3 and 2.4).
PUBLISHED = {
    ("dtp", "simple_vgg", "cifar10"): 0.05,
    ("dtp", "lenet", "cifar10"): 0.03618,
    ("dtp", "simple_vgg", "imagenet32"): 0.01,
    ("vanilla_dtp", "simple_vgg", "cifar10"): 0.001,
    ("vanilla_dtp", "lenet", "cifar10"): 0.03618,
    ("target_propagation", "simple_vgg", "cifar10"): 0.001,
    ("target_propagation", "lenet", "cifar10"): 0.03618,
}


def values(name: str, network: str, data: str) -> dict[str, Any]:
    path = config_directory() / "tuned" / "rule" / name / network / f"{data}.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


@pytest.mark.parametrize("where", PUBLISHED, ids="-".join)
def test_a_step_is_as_large_as_the_published_one(where: tuple[str, str, str]) -> None:
    """Theirs moves by beta times our gradient (their loss is not divided by it), with a decay of the weights."""
    found = values(*where)
    ours, beta = found["optimizer"], found["method"]["rule"]["beta"]
    gradients = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).double()

    def after(rate: float, decay: float, scale: float) -> torch.Tensor:
        weights = torch.ones(50).double().requires_grad_()
        optimizer = torch.optim.SGD([weights], lr=rate, momentum=0.9, weight_decay=decay)
        for gradient in gradients:
            weights.grad = scale * gradient
            optimizer.step()
        return weights.detach() - 1

    assert ours["name"] == "sgd"
    assert ours["momentum"] == 0.9
    torch.testing.assert_close(
        after(ours["learning_rate"], ours["weight_decay"], 1.0), after(PUBLISHED[where], 1e-4, beta), rtol=2e-4, atol=0
    )
    # Without momentum's help: a decay that is off by a factor beta would not be seen above.
    assert ours["weight_decay"] * beta == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("where", PUBLISHED, ids="-".join)
def test_published_feedback_learns_by_sgd_at_a_rate_a_layer(where: tuple[str, str, str]) -> None:
    own = values(*where)["method"]["rule"]
    assert len(own["feedback_rate"]) == len(own["iterations"]) == len(own["noise"])
    assert own.get("momentum", member(f"method/rule/{where[0]}")["momentum"]) == 0.9


@pytest.mark.parametrize("name", ["vanilla_dtp", "target_propagation"])
def test_feedback_learns_by_sgd_with_momentum_where_asked(name: str) -> None:
    """omega <- omega - rate v, v <- momentum v + g, for two iterations on one batch."""
    net, (x, y) = two_layers(), batch()
    made = rule(name, net, iterations=2, feedback_rate=0.1, momentum=0.9)
    made.steps = 1
    passes, stream = made.forward(x), made.stream(1)
    velocity = [torch.zeros_like(value) for value in made.feedback[1].parameters]
    own = made.feedback[1]
    first = [value.clone() for value in own.parameters]
    for _ in range(2):
        found = made.feedback_gradients(1, own, passes, stream)
        for value, speed, gradient in zip(own.parameters, velocity, found, strict=True):
            speed.mul_(0.9).add_(gradient)
            with torch.no_grad():
                value.sub_(speed, alpha=0.1)
    expected = [value.clone() for value in own.parameters]
    for value, start in zip(own.parameters, first, strict=True):
        value.copy_(start)
    made.steps = 0
    made.gradients(net, x, y, LOSS_OF)
    for value, wanted in zip(own.parameters, expected, strict=True):
        torch.testing.assert_close(value, wanted)


def test_the_papers_cells_have_the_time_that_they_took() -> None:
    """Specification, section 3.2: 560 minutes for dtp on SimpleVGG; 90 hours asked for ImageNet-32."""
    suite = yaml.safe_load((config_directory() / "suite" / "dtp_paper.yaml").read_text())
    for row, hours in (("cifar10_simple_vgg", 560 / 60), ("imagenet32_simple_vgg", 90)):
        words = [*suite["overrides"], *suite["rows"][row]["overrides"]]
        asked = dict(word.split("=", 1) for word in words)  # the later word counts
        seconds = float(asked["timeout"])
        assert seconds > 1.1 * 3600 * hours
        assert 60 * float(asked["hardware.launcher.timeout_min"]) > seconds
