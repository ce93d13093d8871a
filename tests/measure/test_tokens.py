"""When each token came: durations by hand, and what the figures make of them."""

import numpy as np
import pytest
import torch

from fourfold.benchmarks.language import llama
from fourfold.measure.clock import Clock
from fourfold.measure.tokens import TokenMarks
from fourfold.metrics.generation import generation_figures


@pytest.fixture
def marks(monkeypatch) -> TokenMarks:
    """Marks at seconds 0, 3, 4, 6 and 10, 12, 15: two texts of three and of two tokens."""
    times = iter([0.0, 3.0, 4.0, 6.0, 10.0, 12.0, 15.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    made = TokenMarks(Clock(torch.device("cpu")))
    for tokens in (3, 2):
        made.begin()
        for _ in range(tokens):
            made.token()
    return made


def test_first_tokens_and_gaps_by_hand(marks) -> None:
    series = marks.series()
    assert series["first_token_seconds"].tolist() == [3, 2]
    assert series["token_gap_seconds"].tolist() == [1, 2, 3]


def test_a_text_without_a_token_has_no_first_one() -> None:
    made = TokenMarks(Clock(torch.device("cpu")))
    made.begin()
    made.begin()
    made.token()
    assert made.series()["first_token_seconds"].shape == (1,)
    assert TokenMarks(Clock(torch.device("cpu"))).series()["token_gap_seconds"].shape == (0,)


def test_the_first_text_warms_up_and_is_left_out() -> None:
    series = {"first_token_seconds": [9.0, 1.0, 3.0], "token_gap_seconds": [9.0, 9.0, 1.0, 2.0, 3.0, 4.0]}
    found = generation_figures(series)
    assert found["first_token_seconds"] == 2
    assert found["first_token_seconds_p50"] == 2
    assert found["token_gap_seconds"] == 2.5
    assert found["token_gap_seconds_p99"] == pytest.approx(np.percentile([1, 2, 3, 4], 99))
    assert generation_figures({}) == {}


def test_every_token_that_is_written_is_told() -> None:
    torch.manual_seed(0)
    model = llama(vocabulary=300, hidden=16, intermediate=32, layers=1, heads=2, key_value_heads=1, positions=32,
                  rope_base=1e4, tied=True).eval()  # fmt: skip
    told: list[int] = []
    prompts = torch.randint(0, 256, (2, 5))
    written = model.generate(prompts, 4, lambda: told.append(1))
    assert written.shape == (2, 9)
    assert torch.equal(written[:, :5], prompts)
    assert len(told) == 4
    again = model(written[:, :-1])[:, 4:].argmax(-1)  # without the cache
    assert torch.equal(written[:, 5:], again)
