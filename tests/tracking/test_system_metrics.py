"""What the monitor read becomes MLflow's system metrics."""

import numpy as np

from fourfold.tracking.runs import MOST_POINTS, cell_run, system_points
from records import make_record, make_series


def test_names_units_and_times_are_mlflows() -> None:
    record = make_record()
    record.measurements["monitor"] = {"started": 5000.0, "sources": {"gpu_0": "device", "host": "host"}}
    series = {
        **make_series(),
        "monitor.seconds": np.array([0.0, 0.5]),
        "monitor.gpu_0.power": np.array([400.0, np.nan]),
        "monitor.gpu_0.energy": np.array([1.0, 2.0]),
        "monitor.host.utilisation": np.array([0.25, 0.5]),
        "monitor.host.memory": np.array([2e9, 3e9]),
    }
    found = [(point.key, point.value, point.time) for point in system_points(record, series)]
    assert found == [
        ("system/gpu_0_power_usage_watts", 400.0, 5000.0),
        ("system/cpu_utilization_percentage", 25.0, 5000.0),
        ("system/cpu_utilization_percentage", 50.0, 5000.5),
        ("system/system_memory_usage_megabytes", 2000.0, 5000.0),
        ("system/system_memory_usage_megabytes", 3000.0, 5000.5),
    ]
    assert {point.key for point in cell_run(record, series, None).points} >= {key for key, _, _ in found}


def test_a_long_watch_is_thinned_and_none_is_nothing() -> None:
    looks = 10 * MOST_POINTS + 1
    series = {"monitor.seconds": np.arange(looks), "monitor.gpu_0.power": np.ones(looks)}
    assert MOST_POINTS / 2 < len(system_points(make_record(), series)) <= MOST_POINTS
    assert system_points(make_record(), {}) == []
