"""Golden values, computed by hand from the formulas of the papers."""

import numpy as np
import pytest

from fourfold.metrics import continual
from records import evaluations

# Rows: untrained, after context 1, 2, 3. Columns: contexts.
R = np.array(
    [
        [0.10, 0.20, 0.30],
        [0.90, 0.15, 0.25],
        [0.95, 0.80, 0.40],
        [0.60, 0.70, 0.85],
    ]
)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (continual.average_accuracy, (0.60 + 0.70 + 0.85) / 3),
        (continual.untrained_accuracy, 0.2),
        (continual.learning_accuracy, (0.90 + 0.80 + 0.85) / 3),
        (continual.average_incremental_accuracy, (0.90 + (0.95 + 0.80) / 2 + (0.60 + 0.70 + 0.85) / 3) / 3),
        (continual.forgetting_max, ((0.95 - 0.60) + (0.80 - 0.70)) / 2),
        (continual.forgetting_max_with_last, ((0.95 - 0.60) + (0.80 - 0.70)) / 2),
        (continual.forgetting_last, ((0.90 - 0.60) + (0.80 - 0.70)) / 2),
        (continual.bwt_gem, ((0.60 - 0.90) + (0.70 - 0.80)) / 2),
        (continual.fwt_gem, ((0.15 - 0.20) + (0.40 - 0.30)) / 2),
        (continual.aaa, (0.90 + (0.95 + 0.80) / 2 + (0.60 + 0.70 + 0.85) / 3) / 3),
        (continual.accuracy_a, (0.90 + 0.95 + 0.80 + 0.60 + 0.70 + 0.85) / 6),
        (continual.bwt_diaz, ((0.95 - 0.90) + (0.60 - 0.90) + (0.70 - 0.80)) / 3),
        (continual.remembering, 1 - 0.35 / 3),
        (continual.worst_case_accuracy, 0.85 / 3 + 2 / 3 * (0.60 + 0.70) / 2),
    ],
)
def test_golden(metric, value: float) -> None:
    assert metric(R) == pytest.approx(value)


def test_a_context_that_is_best_at_the_end_is_forgotten_by_less_than_nothing_or_by_nothing() -> None:
    matrix = R.copy()
    matrix[3, 1] = 0.95  # 0.80 before
    assert continual.forgetting_max(matrix) == pytest.approx(((0.95 - 0.60) + (0.80 - 0.95)) / 2)
    assert continual.forgetting_max_with_last(matrix) == pytest.approx((0.95 - 0.60) / 2)
    assert continual.forgetting_max_with_last(matrix[:2]) is None


def test_contexts_count_by_their_samples_where_all_were_evaluated() -> None:
    entries = evaluations(R.tolist())
    for entry in entries:
        entry["samples"] = 100 * (entry["context"] + 1)
    assert continual.sample_weighted_accuracy(entries) == pytest.approx((0.60 + 2 * 0.70 + 3 * 0.85) / 6)
    assert continual.sample_weighted_accuracy(entries[:-1]) is None, "the last context was not evaluated at the end"
    assert continual.sample_weighted_accuracy(entries[:3]) is None, "nothing was learned"
    assert continual.sample_weighted_accuracy([]) is None


def test_the_matrix_is_read_from_the_evaluations() -> None:
    entries = evaluations(R.tolist())
    np.testing.assert_array_equal(continual.accuracy_matrix(entries), R)
    assert continual.accuracy_matrix(entries, "perplexity").shape == (1, 0)
    entries[0]["masked"] = 0.75
    masked = continual.accuracy_matrix(entries, masked=True)
    assert masked[0, 0] == 0.75
    assert np.isnan(masked[1:]).all()


def test_without_the_untrained_row_there_is_no_forward_transfer() -> None:
    matrix = continual.accuracy_matrix(evaluations(R[1:].tolist(), first=1))
    assert continual.fwt_gem(matrix) is None
    assert continual.untrained_accuracy(matrix) is None
    assert continual.bwt_gem(matrix) == pytest.approx(continual.bwt_gem(R))


def test_contexts_seen_only_so_far() -> None:
    """Later contexts were not evaluated before they were learned: all but forward transfer is defined."""
    rows = [[0.9, None, None], [0.95, 0.8, None], [0.6, 0.7, 0.85]]
    matrix = continual.accuracy_matrix(evaluations(rows, first=1))
    for metric in (continual.average_accuracy, continual.average_incremental_accuracy, continual.forgetting_max):
        assert metric(matrix) == pytest.approx(metric(R))
    assert continual.fwt_gem(matrix) is None


@pytest.mark.parametrize(
    "rows",
    [
        [[0.1, 0.2], [0.8, 0.7]],  # both contexts learned at once: one row of two
        [[0.1], [0.9]],  # a single context
        [[0.1, 0.2], [0.9, 0.1], [None, 0.8]],  # the last evaluation is not whole
    ],
)
def test_undefined_is_none(rows: list[list[float | None]]) -> None:
    matrix = continual.accuracy_matrix(evaluations(rows))
    for metric in (continual.forgetting_max, continual.forgetting_last, continual.bwt_gem, continual.fwt_gem):
        if not (metric is continual.fwt_gem and len(rows) == 3):  # which needs no last row
            assert metric(matrix) is None


def test_learned_at_once_has_an_average() -> None:
    matrix = continual.accuracy_matrix([*evaluations([[0.1, 0.2]]), *evaluations([[0.8, 0.7]], first=2)])
    assert continual.average_accuracy(matrix) == pytest.approx(0.75)
    assert continual.average_incremental_accuracy(matrix) is None


def test_nothing_learned_is_not_an_average() -> None:
    assert continual.average_accuracy(continual.accuracy_matrix(evaluations([[0.5, 0.5]]))) is None
    assert continual.average_accuracy(continual.accuracy_matrix([])) is None


def test_contexts_that_come_back_count_as_seen_in_aaa_alone() -> None:
    rows = [[0.5, 0.5], [0.8, 0.1], [0.6, 0.8], [0.9, 0.7], [0.8, 0.9]]
    matrix = continual.accuracy_matrix(evaluations(rows))
    assert continual.aaa(matrix) == pytest.approx((0.8 + 0.7 + 0.8 + 0.85) / 4)
    assert continual.average_incremental_accuracy(matrix) is None


def test_intransigence_is_what_training_on_all_so_far_knows_better() -> None:
    cumulative = np.array([[0.1, 0.1, 0.1], [1.0, 0.1, 0.1], [0.9, 0.9, 0.1], [0.8, 0.8, 1.0]])
    own = [R[k + 1, k] for k in range(3)]
    assert continual.intransigence(R, cumulative) == pytest.approx((1.0 + 0.9 + 1.0 - sum(own)) / 3)
    assert continual.intransigence(cumulative, cumulative) == 0
    assert continual.intransigence(R, cumulative[:, :2]) is None


def test_intransigence_is_told_apart_from_that_beside_joint_training() -> None:
    joint = np.array([[0.1, 0.1, 0.1], [0.95, 0.85, 0.90]])
    assert continual.intransigence_joint(R, joint) == pytest.approx((0.05 + 0.05 + 0.05) / 3)
    assert continual.intransigence_joint(R, joint[:, :2]) is None
    assert continual.intransigence(R, joint) is None


def test_classes_are_counted_over_contexts() -> None:
    entries = [
        {"after": 0, "context": 0, "classes": [[0, 1, 10]]},
        {"after": 1, "context": 0, "classes": [[0, 9, 10], [1, 5, 10]]},
        {"after": 1, "context": 1, "classes": [[1, 7, 10]]},
        {"after": 2, "context": 0, "classes": [[0, 6, 10], [1, 10, 10]]},
        {"after": 2, "context": 1, "classes": [[1, 4, 10]]},
    ]
    assert continual.amca(entries) == pytest.approx(((0.9 + 0.6) / 2 + (0.6 + 0.7) / 2) / 2)
    assert continual.class_accuracies(entries) == {0: 0.6, 1: 0.7}
    assert continual.amca([{"after": 1, "context": 0}]) is None


def test_the_online_curve_counts_judged_steps_only() -> None:
    assert continual.online_accuracy([0.5, np.nan, 1.0]) == 0.75
    assert continual.online_accuracy([np.nan]) is None


def test_the_learning_curve_area_is_over_the_first_batches_of_each_context() -> None:
    scores = [0.0, 0.2, 0.4, 0.9, 0.1, 0.3, 0.5, 0.9]
    contexts = [0, 0, 0, 0, 1, 1, 1, 1]
    assert continual.lca(scores, contexts, batches=2) == pytest.approx((0.05 + 0.25 + 0.45) / 3)
    assert continual.lca(scores, contexts, batches=10) is None


def test_transfer_as_diaz_rodriguez_and_the_lowest_points() -> None:
    rows = [[0.1, 0.1, 0.1], [0.9, 0.2, 0.3], [0.5, 0.8, 0.4], [0.7, 0.6, 0.9]]
    matrix = continual.accuracy_matrix(evaluations(rows))
    assert continual.fwt_diaz(matrix) == pytest.approx((0.2 + 0.3 + 0.4) / 3)
    assert continual.bwt_plus(matrix) == 0.0
    better = continual.accuracy_matrix(evaluations([[0.1, 0.1], [0.5, 0.1], [0.7, 0.6]]))
    assert continual.bwt_plus(better) == pytest.approx(0.2)
    assert continual.min_accuracy(matrix) == pytest.approx((0.5 + 0.6) / 2)
    assert continual.worst_case_accuracy(matrix) == pytest.approx(0.9 / 3 + (2 / 3) * 0.55)
