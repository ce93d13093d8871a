"""What continual learning cost: the efficiencies of Diaz-Rodriguez et al., and the challenges' scores."""

import numpy as np
import pytest

from fourfold.metrics import efficiency, figures
from records import evaluations, make_record

SERIES = {"context": np.repeat([0, 1], 10), "step_units": np.full(20, 8.0)}


def test_a_model_that_grows_is_less_efficient() -> None:
    assert efficiency.model_size_efficiency([100, 200, 400]) == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert efficiency.model_size_efficiency([100, 50]) == 1.0
    assert efficiency.model_size_efficiency([100]) is None


def test_samples_kept_count_beside_all_that_came() -> None:
    assert efficiency.samples_storage_efficiency([10, 30], 100) == pytest.approx(0.8)
    assert efficiency.samples_storage_efficiency([0, 0], 100) == 1.0
    assert efficiency.samples_storage_efficiency([200, 200], 100) == 0.0
    assert efficiency.samples_storage_efficiency([10, None], 100) is None, "a method that does not know what it keeps"


def test_computing_counts_beside_one_pass() -> None:
    """Ten steps of 8 on contexts of 40 samples are two passes, at twice the FLOP of plain training."""
    flops = {"model": 5.0, "executed": 10.0, "alike": True}
    assert efficiency.compute_efficiency(SERIES, [40.0, 40.0], flops) == pytest.approx(40 * 5 / (80 * 10))
    assert efficiency.compute_efficiency(SERIES, [40.0, 40.0], {"model": 5.0, "executed": None}) is None
    mixed = {**SERIES, "context": np.tile([0, 1], 10)}
    assert efficiency.compute_efficiency(mixed, [40.0, 40.0], flops) is None
    first_step = {**flops, "alike": False}
    assert efficiency.compute_efficiency(SERIES, [40.0, 40.0], first_step) is None, "later steps may take more"


def test_computing_is_that_of_the_steps_that_were_counted_and_of_the_ends_of_contexts() -> None:
    """A memory that is empty at the first step: 80 FLOP, then 160; a last step of half a batch; 90 at the end."""
    counted, units = np.full(20, np.nan), np.full(20, 8.0)
    counted[[0, 1, 10, 11]], units[19] = [80, 160, 160, 240], 4.0
    series = {**SERIES, "step_units": units, "step_flops": counted}
    learned = [80 + 9 * 160 + 90, 160 + 8 * 240 + 120 + 90]
    steps = efficiency.flops_of_steps(series, {})
    assert steps is not None
    assert steps[[0, 5, 10, 18, 19]].tolist() == [80, 160, 160, 240, 120]
    found = efficiency.compute_efficiency(series, [40.0, 36.0], {"model": 5.0}, [90, 90])
    assert found == pytest.approx((40 * 5 / learned[0] + 36 * 5 / learned[1]) / 2)
    assert efficiency.executed_per_unit(series) == pytest.approx((sum(learned) - 180) / 156)
    assert efficiency.compute_efficiency(series, [40.0, 36.0], {"model": 5.0}, [90]) is None
    idle = {**series, "step_flops": np.where(np.isnan(counted), np.nan, 0.0)}  # what only stores samples as they come
    assert efficiency.compute_efficiency(idle, [40.0, 36.0], {"model": 5.0}, [400, 360]) == pytest.approx(0.5)
    assert efficiency.compute_efficiency(idle, [40.0, 36.0], {"model": 5.0}, [400, 0]) is None


def test_counted_steps_are_slower_and_do_not_count_for_the_rate() -> None:
    seconds = np.full(40, 0.1)
    seconds[[0, 1, 7, 31]] = 3.0
    series = {"step_seconds": seconds, "step_units": np.full(40, 8.0), "forward_seconds": seconds / 2}
    series["step_flops"] = np.where(seconds > 1, 80.0, np.nan)
    found = figures(make_record(), series)
    assert (found["units_per_second"], found["forward_share"]) == (pytest.approx(80), pytest.approx(0.5))


def test_figures_of_a_cell_have_them() -> None:
    matrix = evaluations([[0.1, 0.1], [0.9, 0.2], [0.7, 0.8]])
    record = make_record(evaluations=matrix)
    record.measurements |= {
        "held": [{"after": after, "parameters": 400, "samples": 10 * after} for after in (0, 1, 2)],
        "data": {"bytes": 100, "units": [40.0, 40.0]},
        "flops": {"model": 5.0, "executed": 10.0, "alike": True},
    }
    looks = {"monitor.process.memory": np.array([1e9, 3e9]), "monitor.process.disk": np.array([0.0, 100.0])}
    found = figures(record, {**SERIES, **looks})
    assert (found["ram_mean_bytes"], found["ram_peak_bytes"], found["disk_mean_bytes"]) == (2e9, 3e9, 50)
    parts = {"accuracy_a": 2.4 / 3, "remembering": 0.8, "bwt_plus": 0.0, "fwt_diaz": 0.2}
    parts |= {"model_size_efficiency": 1.0, "samples_storage_efficiency": 0.85, "compute_efficiency": 0.25}
    assert all(found[name] == pytest.approx(value) for name, value in parts.items())
    assert found["cl_score_diaz"] == pytest.approx(sum(parts.values()) / 7)
    assert "cl_score_diaz" not in figures(record, looks), "one criterion is not known"


def test_scores_of_the_challenges() -> None:
    assert efficiency.cl_score_sequoia(0.5, 0.8, 300) == pytest.approx(0.15 + 0.32 + 0.3)
    assert efficiency.cl_score_sequoia(0.5, 0.8, 1950) == pytest.approx(0.15 + 0.32 + 0.15)
    assert efficiency.cl_score_sequoia(0.5, 0.8, 9999) == pytest.approx(0.15 + 0.32)
    assert sum(efficiency.CLVISION_WEIGHTS) == pytest.approx(1)
    score = efficiency.cl_score_clvision2020([0.8, 0.6, 5, 1, 2, 0, 0], [10, 4, 4, 1, 0])
    assert score == pytest.approx(0.3 * 0.8 + 0.1 * 0.6 + 0.15 * 0.5 + 0.125 * 0.75 + 0.125 * 0.5 + 0.125 + 0.075)
    assert efficiency.cl_score_diaz({"ACC": 0.8, "REM": 0.6}) == pytest.approx(0.7)
    assert efficiency.cl_score_diaz({"ACC": 0.8, "REM": 0.6}, {"ACC": 0.25, "REM": 0.75}) == pytest.approx(0.65)
    runs = [{"ACC": 0.7, "REM": 0.6}, {"ACC": 0.8, "REM": 0.6}, {"ACC": 0.9, "REM": 0.6}]  # deviations 0.1 and 0
    assert efficiency.cl_stability_diaz(runs) == pytest.approx(1 - 0.05)
    assert efficiency.cl_stability_diaz(runs, {"ACC": 0.25, "REM": 0.75}) == pytest.approx(1 - 0.025)
    assert efficiency.cl_stability_diaz(runs[:1]) is None
