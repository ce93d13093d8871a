"""Text of several domains: what the chains write, files of one's own, and a language model that goes through them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from fourfold import errors
from fourfold.data.text import entropy_rate, markov_text, text_domains, transitions
from fourfold.metrics import figures


def test_a_chain_writes_by_its_chances() -> None:
    """Counts of each pair of symbols against row total x chance, by chi-square; and the entropy of a known chain."""
    chances = transitions(6, number=1)
    assert torch.allclose(chances.sum(1), torch.ones(6, dtype=torch.float64))
    walk = markov_text(chances, 64 * 2000, number=1).view(64, 2000).long()  # 64 walks, one after another
    counts = torch.zeros(6, 6).index_put_((walk[:, :-1].flatten(), walk[:, 1:].flatten()), torch.tensor(1.0), True)
    expected = counts.sum(1, keepdim=True) * chances
    likely = expected > 5
    statistic = float(((counts - expected)[likely] ** 2 / expected[likely]).sum())
    assert stats.chi2.sf(statistic, int(likely.sum()) - 6) > 0.001
    a, b = 0.3, 0.2  # stationary (b, a) / (a + b); entropy of a coin in each row
    coin = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)  # noqa: E731
    known = torch.tensor([[1 - a, a], [b, 1 - b]], dtype=torch.float64)
    assert entropy_rate(known) == pytest.approx((b * coin(a) + a * coin(b)) / (a + b))


def test_windows_stay_within_a_domain(tmp_path: Path) -> None:
    for name, letter in (("b_second", "y"), ("a_first", "x")):
        folder = tmp_path / "languages" / name
        folder.mkdir(parents=True)
        (folder / "one.txt").write_text(letter * 900)
    sets = text_domains(str(tmp_path), seed=0, sequence=8, megabytes=1.0, domains=2, symbols=4, folder="languages")
    for data in (sets.train, sets.test):
        batch = data.batch(torch.arange(len(data)))
        letters = torch.tensor([ord("x"), ord("y")])[data.domains]
        assert (batch.inputs == letters[:, None]).all()
        assert (batch.targets == letters[:, None]).all()
        assert batch.inputs.shape == (len(data), 8)
    with pytest.raises(errors.Refused, match=r"benchmark.data.domains=3: .* has 2 folders"):
        text_domains(str(tmp_path), 0, 8, 1.0, domains=3, symbols=4, folder="languages")
    with pytest.raises(errors.Unavailable, match="no folders there"):
        text_domains(str(tmp_path), 0, 8, 1.0, domains=2, symbols=4, folder="nothing")
    (tmp_path / "languages" / "a_first" / "one.txt").write_text("x")
    with pytest.raises(errors.Unavailable, match="a_first: too little text"):
        text_domains(str(tmp_path), 0, 8, 1.0, domains=2, symbols=4, folder="languages")


def test_a_language_model_forgets_one_domain_for_another(run: Any) -> None:
    words = ["benchmark=text_domains", "setting=domain_incremental", "setting.contexts=2", "benchmark.data.domains=2"]
    words += ["benchmark.data.symbols=4", "benchmark.data.megabytes=0.01", "benchmark.model.layers=1", "until.steps=80"]
    record = run(*words, "optimizer.learning_rate=0.01")
    assert record.state == errors.DONE, record.message
    found = figures(record)
    floor = sum(entropy_rate(transitions(4, number)) for number in range(2)) / 2
    assert floor < found["learning_nats"] < floor + 0.5, "no model beats the chain's entropy"
    assert found["untrained_nats"] > 4
    assert found["forgetting_max_nats"] > 0.1
    assert record.measurements["contexts"][1].startswith("context 1: domain 1")


def test_more_contexts_than_domains_are_refused(run: Any) -> None:
    record = run("benchmark=text_domains", "setting=domain_incremental", "setting.contexts=6")
    assert record.state == errors.REFUSED
    assert "setting.contexts=6: text_domains cannot do that, its data has 5" in record.message
