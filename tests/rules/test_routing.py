"""Which weights errors are sent around: no rule is backprop under another name without saying so."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bench import LOSS_OF, batch, rule
from torch import nn

from fourfold.errors import Refused
from fourfold.rules.feedback_alignment import other_weights, routable

FAMILY = ["feedback_alignment", "sign_symmetry", "kolen_pollack"]


class OwnLinear(nn.Linear):
    """A linear layer with a pass of its own."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


@pytest.mark.parametrize("name", FAMILY)
def test_a_network_whose_weights_are_all_elsewhere_is_refused(name: str) -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), OwnLinear(6, 3))
    with pytest.raises(Refused) as refused:
        rule(name, net)
    assert str(refused.value) == (
        f"rule {name} would be backprop by another name: no weights of this network are in a plain nn.Linear or "
        f"nn.Conv2d, but in 1 of Conv1d, 1 of {OwnLinear.__module__} OwnLinear"
    )


def test_weights_that_are_not_routed_are_told(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Embedding(5, 4), OwnLinear(4, 4), nn.Linear(4, 3))
    with caplog.at_level(logging.WARNING):
        made = rule("feedback_alignment", net)
    assert made.findings() == {"routed_layers": 1, "weights_not_routed": ["1.weight"]}
    (line,) = caplog.messages
    assert (
        line == f"rule feedback_alignment: errors travel as in backprop through 1 of {OwnLinear.__module__} OwnLinear"
    )


def test_nothing_is_told_where_all_are_routed(caplog: pytest.LogCaptureFixture) -> None:
    assert (
        rule("feedback_alignment", nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))).findings() == {}
    )
    assert not caplog.messages


def test_a_layer_with_a_pass_of_its_own_keeps_it() -> None:
    torch.manual_seed(0)
    net, (x, y) = nn.Sequential(nn.Linear(4, 4), OwnLinear(4, 3)).double(), batch()
    outputs, _ = rule("feedback_alignment", net).gradients(net, x, y, LOSS_OF)
    torch.testing.assert_close(outputs, net(x))


def test_attention_reads_its_last_map_and_does_not_call_it() -> None:
    net = nn.MultiheadAttention(4, 2)
    assert routable(net) == {}
    assert sorted(other_weights(net, {})) == ["in_proj_weight", "out_proj.weight"]


def test_the_record_names_them(run: Callable[..., Any]) -> None:
    words = ("benchmark=digits", "hardware=cpu", "setting=task_incremental", "method=hat", "until.steps=6")
    record = run(*words, "method/rule=feedback_alignment")
    assert record.state == "done", record.message
    told = record.measurements["method"]["rule"]
    assert told["routed_layers"] == 3
    assert all(name.endswith(".embedding") for name in told["weights_not_routed"])


def test_a_workload_that_has_no_such_layers_is_refused_in_one_line(run: Callable[..., Any]) -> None:
    pytest.importorskip("torch_geometric")
    record = run("benchmark=pna", "hardware=cpu", "method/rule=feedback_alignment", "until.steps=2", "scale=smoke")
    assert record.state == "refused"
    assert record.message.endswith("of torch_geometric Linear")
