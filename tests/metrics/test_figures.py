"""Every number of a cell by its name; losses; summaries over seeds."""

import numpy as np
import pytest

from fourfold.metrics import figures
from fourfold.metrics.learning import first_loss, last_loss
from fourfold.metrics.statistics import student_quantile, summarise
from records import evaluations, make_record, make_series


def test_summary_golden() -> None:
    """1, 2, 3, 4: s = sqrt(5/3), error = s / 2, t_3(0.975) = 3.18245."""
    found = summarise([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.standard_error == pytest.approx(np.sqrt(5 / 3) / 2)
    assert found.half_width == pytest.approx(3.1824463 * np.sqrt(5 / 3) / 2)
    assert found.low == pytest.approx(2.5 - found.half_width)
    assert student_quantile(9) == pytest.approx(2.2621572)


def test_a_single_value_has_no_interval() -> None:
    found = summarise([0.5])
    assert (found.mean, found.standard_error, found.low, found.high, found.half_width) == (0.5, None, None, None, None)


def test_absent_values_do_not_count() -> None:
    assert summarise([None, 1.0, float("nan"), 3.0]).count == 2
    assert summarise([None, float("nan")]) is None


def test_losses_are_means_of_both_ends() -> None:
    loss = np.arange(100.0)
    assert first_loss(loss) == pytest.approx(4.5)
    assert last_loss(loss) == pytest.approx(94.5)
    assert (first_loss([3.0, 2.0, 1.0]), last_loss([3.0, 2.0, 1.0])) == (3.0, 1.0)
    assert first_loss([np.nan, 2.0]) == 2.0
    assert last_loss([]) is None


def test_figures_of_a_cell() -> None:
    record = make_record(evaluations=evaluations([[0.1, 0.2], [0.9, 0.1], [0.7, 0.8]]))
    found = figures(record, make_series(steps=400))
    assert found["units_per_second"] == pytest.approx(3200, rel=0.02)
    assert found["units_per_second_low"] < found["units_per_second"] < found["units_per_second_high"]
    assert found["overall_units_per_second"] == pytest.approx(6400 / 2.5)
    assert found["average_accuracy"] == pytest.approx(0.75)
    assert found["forgetting_max"] == pytest.approx(0.2)
    assert found["last_loss"] < found["first_loss"]
    assert found["total_seconds"] == 60
    assert found["learn_seconds"] == 2.5
    assert found["device_seconds"] == pytest.approx(make_series(steps=400)["step_seconds"].sum())
    record.config["hardware"]["devices"] = 8
    assert figures(record, make_series(steps=400))["device_seconds"] == pytest.approx(8 * found["device_seconds"])
    assert "device_seconds" not in figures(record)
    assert found["host_peak_bytes"] == 512 * 2**20
    assert "allocated_peak_bytes" not in found
    assert not any(name.endswith("_masked") for name in found)
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())


def test_where_less_is_better_nothing_is_called_forgetting() -> None:
    found = figures(make_record(evaluations=evaluations([[260.0], [30.0]], metric="perplexity")))
    assert found["average_perplexity"] == 30
    assert found["untrained_perplexity"] == 260
    assert "forgetting_max" not in found


def test_perplexities_are_forgotten_in_nats() -> None:
    e = np.e
    rows = [[e**5, e**5], [e**2, e**4], [e**3, e**1]]
    found = figures(make_record(evaluations=evaluations(rows, metric="perplexity")))
    assert found["average_nats"] == pytest.approx(2)
    assert found["untrained_nats"] == pytest.approx(5)
    assert found["learning_nats"] == pytest.approx(1.5)
    assert found["forgetting_max_nats"] == pytest.approx(1)
    assert found["bwt_gem_nats"] == pytest.approx(-1)
    assert found["fwt_gem_nats"] == pytest.approx(1)
    assert not any(name.endswith("_nats") for name in figures(make_record(evaluations=evaluations([[0.1], [0.9]]))))


def test_masked_values_have_names_of_their_own() -> None:
    entries = [{**entry, "masked": entry["value"] + 0.1} for entry in evaluations([[0.1, 0.2], [0.9, 0.1], [0.7, 0.8]])]
    found = figures(make_record(evaluations=entries))
    assert found["average_accuracy_masked"] == pytest.approx(0.85)
    assert found["forgetting_max_masked"] == pytest.approx(found["forgetting_max"])


def test_a_cell_that_never_ran_has_no_figures() -> None:
    assert figures(make_record(measurements={}, ended=None)) == {}


def test_figures_of_an_empty_series() -> None:
    empty = {name: values[:0] for name, values in make_series().items()}
    assert "units_per_second" not in figures(make_record(), empty)
