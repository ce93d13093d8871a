"""Figures of a stream that is predicted before it is learned, against cases counted by hand."""

import numpy as np
import pytest

from fourfold.metrics.online import adaptation_curve, by_mode, cumulative, detection, figures


def test_the_first_prediction_counts() -> None:
    assert cumulative([1.0, 0.0, 0.5, 0.5]) == 0.5
    assert cumulative([0.0, 1.0]) == 0.5
    assert cumulative([np.nan]) is None


def test_each_mode_has_its_own_mean() -> None:
    assert by_mode([1.0, 0.0, 0.5, 0.5], [0, 0, 2, 2]) == {0: 0.5, 2: 0.5}


def test_the_adaptation_curve_is_the_mean_at_each_step_since_a_switch() -> None:
    curve = adaptation_curve([0.0, 0.5, 1.0, 0.2, 0.7], [0, 1, 2, 0, 1])
    assert np.allclose(curve, [0.1, 0.6, 1.0])


# since the switch:     0  1  2  0  1  2  3  0  1  0  1  2  3  4  5  6
SINCE = np.array([0, 1, 2, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5, 6])


def test_detections_are_matched_with_switches() -> None:
    said = np.zeros(16)
    said[[1, 3, 5, 8, 15]] = 1  # a false alarm, a switch at once, the same again, one a step late, one too late
    found = detection(said, SINCE)
    assert found.precision == pytest.approx(2 / 5)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3))
    assert found.delay == pytest.approx(0.5)


def test_precision_and_recall_are_not_swapped() -> None:
    """Always crying names every switch and is mostly wrong; crying once and rightly is the other way round."""
    always, once = np.ones(16), np.zeros(16)
    once[3] = 1
    assert (detection(always, SINCE).precision, detection(always, SINCE).recall) == (pytest.approx(3 / 15), 1.0)
    assert (detection(once, SINCE).precision, detection(once, SINCE).recall) == (1.0, pytest.approx(1 / 3))
    never = detection(np.zeros(16), SINCE)
    assert (never.precision, never.recall, never.f1, never.delay) == (None, 0.0, 0.0, None)


def test_the_first_step_of_the_stream_is_neither_a_switch_nor_a_false_alarm() -> None:
    said = np.zeros(16)
    said[[0, 3]] = 1
    assert detection(said, SINCE) == (1.0, pytest.approx(1 / 3), pytest.approx(1 / 2), 0.0)
    said[1] = 1  # later in the first context it is one
    assert detection(said, SINCE).precision == pytest.approx(1 / 2)
    said[:] = 0
    said[0] = 1
    assert detection(said, SINCE) == (None, 0.0, 0.0, None)
    assert detection([], []) == (None, None, None, None)


def test_figures_are_named_by_mode_and_position() -> None:
    series = {"score": [0.0, 1.0, 0.5], "context": [0, 0, 1], "since_switch": [0, 1, 0], "detected": [0, 0, 1]}
    found = figures(series, ["context 0: omniglot", "context 1: mnist"], "accuracy")
    assert found["cumulative_accuracy"] == 0.5
    assert found["cumulative_accuracy_omniglot"] == 0.5
    assert found["cumulative_accuracy_mnist"] == 0.5
    assert found["accuracy_0_after_switch"] == 0.25
    assert found["accuracy_1_after_switch"] == 1.0
    assert (found["switches"], found["detection_recall"], found["detection_delay"]) == (1.0, 1.0, 0.0)
    assert figures({}, [], "accuracy") == {}
