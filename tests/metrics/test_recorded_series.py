"""Step times that were recorded on a real, busy machine (benchmarks/steady_rates.py): what is found in each, stated."""

import json
from pathlib import Path

import numpy as np
import pytest

from fourfold.metrics.throughput import rate

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.csv"))


def read(file: Path) -> tuple[dict, np.ndarray]:
    first, *rest = file.read_text().splitlines()
    return json.loads(first.removeprefix("# ")), np.asarray(rest, dtype=np.float64)


def test_there_are_several_kinds_of_work() -> None:
    assert len(RECORDED) >= 4


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_what_is_found_is_what_is_stated(file: Path) -> None:
    said, seconds = read(file)
    found = rate(seconds, np.full(len(seconds), said["units"]))
    assert found is not None
    stated = said["found"]
    assert (found.warmup, found.steady) == (stated["warmup"], stated["steady"])
    assert (found.mean, found.low, found.high) == pytest.approx((stated["rate"], stated["low"], stated["high"]))


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_the_rate_is_that_of_the_rest_and_its_interval_holds_what_the_rest_itself_says(file: Path) -> None:
    """The rate after warm-up, by hand; and each half of what is left has its own rate, within three intervals."""
    said, seconds = read(file)
    found = rate(seconds, np.full(len(seconds), said["units"]))
    assert found is not None
    rest = seconds[found.warmup :]
    assert found.mean == pytest.approx(said["units"] / rest.mean())
    assert found.low is not None
    assert found.high is not None
    for half in np.array_split(rest, 2):
        assert abs(said["units"] / half.mean() - found.mean) < 3 * (found.high - found.low) / 2


def test_a_cold_start_in_front_of_a_recorded_series_does_not_move_its_rate() -> None:
    """Ten steps of ten times the usual, as a first allocation or a cold cache would be, are cut off."""
    for file in RECORDED:
        said, seconds = read(file)
        units = np.full(len(seconds) + 10, said["units"])
        cold = rate(np.concatenate([np.full(10, 10 * np.median(seconds)), seconds]), units)
        warm = rate(seconds, units[10:])
        assert cold is not None
        assert warm is not None
        assert cold.warmup >= 10, file.stem
        assert warm.low <= cold.mean <= warm.high, file.stem
