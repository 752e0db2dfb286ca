"""Scores of two-class classifiers, by hand and by closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from evaluation.classification import (
    accuracy_bounds,
    accuracy_by_position,
    accuracy_by_subject,
    balanced_accuracy,
    chance_bounds,
    classification_scores,
    confusion,
    least_sign_flip_p,
    mean_interval,
    paired_interval,
    probability_of_right,
    sign_flip_p,
    trial_means,
)

LABEL = np.array([0, 0, 0, 1, 1, 1, 1, 1])
P = np.array([0.1, 0.2, 0.9, 0.8, 0.7, 0.4, 0.9, 0.6])  # two left right, four right right


def test_scores_by_hand() -> None:
    scores = classification_scores(LABEL, P)
    assert scores["accuracy"] == pytest.approx(6 / 8)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    assert scores["f1_macro"] == pytest.approx((0.8 + 2 * 2 / (2 * 2 + 1 + 1)) / 2)
    # 15 pairs (left, right); right is rated higher in 5 + 5 + 0 of them, with one tie at 0.9
    assert scores["roc_auc"] == pytest.approx((5 + 5 + 0.5) / 15)
    chance = (3 / 8) * (3 / 8) + (5 / 8) * (5 / 8)
    assert scores["kappa"] == pytest.approx((6 / 8 - chance) / (1 - chance))
    assert confusion(LABEL, P).tolist() == [[2, 1], [1, 4]]


def test_calibration_of_a_known_case() -> None:
    """All 0.75, and three of four are right: no error; all 0.75 and none is: 0.75."""
    p = np.full(4, 0.75)
    assert classification_scores(np.array([1, 1, 1, 0]), p)["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert classification_scores(np.array([0, 0, 0, 0]), p)["calibration_error"] == pytest.approx(0.75, abs=1e-6)


def test_one_class_only_has_no_auc() -> None:
    scores = classification_scores(np.array([1, 1]), np.array([0.9, 0.2]))
    assert math.isnan(scores["roc_auc"])
    assert scores["balanced_accuracy"] == 0.5


def test_broken_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 probabilities are NaN"):
        classification_scores(np.array([0, 1]), np.array([0.5, math.nan]))
    with pytest.raises(ValueError, match="3 labels and 2 probabilities"):
        classification_scores(np.array([0, 1, 1]), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="at least one"):
        classification_scores(np.array([]), np.array([]))


def test_trials_are_means_of_their_windows() -> None:
    log_p = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]]))
    trials, means = trial_means(log_p, np.array([7, 3, 7, 3]))
    assert trials.tolist() == [3, 7]
    assert np.allclose(means[1], (log_p[0] + log_p[2]) / 2)
    # P(right) of trial 7: sqrt(0.1 * 0.6) against sqrt(0.9 * 0.4)
    right, left = math.sqrt(0.06), math.sqrt(0.36)
    assert probability_of_right(means)[1] == pytest.approx(right / (right + left))
    assert probability_of_right(np.array([[-1e9, 0.0], [0.0, -1e9]])).tolist() == pytest.approx([1.0, 0.0])


def test_accuracy_by_subject_and_position() -> None:
    assert accuracy_by_subject(LABEL, P, np.array([1, 1, 1, 1, 5, 5, 5, 5])) == {1: 0.75, 5: 0.75}
    assert accuracy_by_position(LABEL, P, np.array([0, 1, 0, 1, 0, 1, 0, 1])).tolist() == [0.75, 0.75]


def test_intervals_over_subjects() -> None:
    mean, low, high = mean_interval([0.5, 0.6, 0.7])
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((0.6, 0.6 - half, 0.6 + half))
    assert mean_interval([0.5])[0] == 0.5
    assert math.isnan(mean_interval([0.5])[1])
    assert paired_interval({1: 0.6, 2: 0.7, 3: 0.8}, {1: 0.5, 2: 0.6, 4: 0.0})[0] == pytest.approx(0.1)


def test_an_interval_of_accuracies_stays_between_0_and_1() -> None:
    """Student's t of three people who are nearly always right reaches 1.11."""
    mean, low, high = mean_interval([1.0, 1.0, 0.85])
    assert (mean, high) == (pytest.approx(0.95), 1.0)
    assert low == pytest.approx(0.95 - stats.t.ppf(0.975, 2) * 0.05)
    assert mean_interval([0.0, 0.0, 0.15])[1] == 0.0
    assert paired_interval({1: 0.9, 2: 0.1}, {1: 0.1, 2: 0.9})[1:] == (-1.0, 1.0)
    assert paired_interval({1: 0.0, 2: 0.1}, {1: 0.1, 2: 0.1})[1] < 0


@pytest.mark.parametrize("half", [1, 5, 23, 60, 150])
@pytest.mark.parametrize("level", [0.95, 0.999])
def test_equal_classes_have_the_binomial_bounds(half: int, level: float) -> None:
    n, tail = 2 * half, (1 - level) / 2
    expected = (stats.binom.ppf(tail, n, 0.5) / n, stats.binom.ppf(1 - tail, n, 0.5) / n)
    assert chance_bounds((half, half), level) == expected
    assert accuracy_bounds((half, half), level) == expected


def test_unequal_classes_have_the_bounds_of_both_coins() -> None:
    """Against 200,000 draws; a constant answer lies within."""
    rng = np.random.default_rng(0)
    for n_left, n_right in ((90, 36), (90, 24), (8, 7)):
        low, high = chance_bounds((n_left, n_right))
        drawn = (rng.binomial(n_left, 0.5, 200_000) / n_left + rng.binomial(n_right, 0.5, 200_000) / n_right) / 2
        assert ((drawn >= low - 1e-9) & (drawn <= high + 1e-9)).mean() >= 0.949
        assert low < 0.5 < high
        assert accuracy_bounds((n_left, n_right))[1] >= n_left / (n_left + n_right)
    assert chance_bounds((12, 0)) == (0.0, 1.0)
    assert accuracy_bounds((1, 0)) == (0.0, 1.0)


def test_balanced_accuracy_of_equal_classes_is_the_accuracy_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for half in (1, 3, 7, 49):
        label = rng.permutation(np.arange(2 * half) % 2)
        guess = rng.integers(2, size=2 * half)
        assert balanced_accuracy(label, guess) == float((label == guess).mean())
    assert balanced_accuracy(np.array([0, 0, 0, 1]), np.zeros(4, int)) == 0.5
    assert balanced_accuracy(np.array([1, 1]), np.array([1, 0])) == 0.5


def test_chance_bounds_hold_a_coin() -> None:
    low, high = chance_bounds((50, 50))
    assert stats.binom.cdf(100 * high, 100, 0.5) - stats.binom.cdf(100 * low - 1, 100, 0.5) >= 0.95
    assert 0.39 < low < 0.41
    assert 0.59 < high < 0.61


def test_three_classes_have_scikit_learns_scores() -> None:
    rng = np.random.default_rng(0)
    label, p = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    scores, guess = classification_scores(label, p), p.argmax(1)
    assert scores["accuracy"] == float((guess == label).mean())
    assert scores["balanced_accuracy"] == pytest.approx(np.mean([(guess[label == c] == c).mean() for c in range(3)]))
    f1 = [2 * ((guess == c) & (label == c)).sum() / ((guess == c).sum() + (label == c).sum()) for c in range(3)]
    assert scores["f1_macro"] == pytest.approx(np.mean(f1))
    assert scores["f1"] == pytest.approx(np.average(f1, weights=np.bincount(label)))
    counts = confusion(label, p)
    assert counts.sum() == 60
    assert np.trace(counts) == (guess == label).sum()
    assert math.isnan(classification_scores(np.array([0, 1, 1]), p[:3])["roc_auc"])


def test_a_class_that_is_neither_there_nor_answered_has_no_part_in_macro_f1() -> None:
    """Tested on somebody without the third class, right answers are perfect."""
    label = np.array([0, 1, 0, 1])
    perfect = np.eye(3)[label] * 0.7 + 0.1
    assert classification_scores(label, perfect)["f1_macro"] == 1.0
    answered = perfect.copy()
    answered[0] = (0.1, 0.1, 0.8)
    assert classification_scores(label, answered)["f1_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert classification_scores(np.zeros(3, int), np.full(3, 0.2))["f1_macro"] == 1.0


def test_three_classes_have_the_bounds_of_a_die() -> None:
    """With as many of each the balanced accuracy is the accuracy: the binomial distribution of one in three."""
    low, high = chance_bounds((40, 40, 40))
    assert low == pytest.approx(stats.binom.ppf(0.025, 120, 1 / 3) / 120, abs=0.009)
    assert high == pytest.approx(stats.binom.ppf(0.975, 120, 1 / 3) / 120, abs=0.009)
    assert accuracy_bounds((40, 40, 40)) == (stats.binom.ppf(0.025, 120, 1 / 3) / 120, high)
    assert chance_bounds((12, 0, 0)) == (0.0, 1.0)
    wide_low, wide_high = chance_bounds((4, 40, 40))
    assert wide_low < low < 1 / 3 < high < wide_high


@pytest.mark.parametrize("n", [1, 3, 8])
def test_differences_of_one_sign_give_the_least_p(n: int) -> None:
    """Of 2^n patterns of signs two are as extreme: all plus and all minus."""
    assert sign_flip_p([0.1 + 0.01 * k for k in range(n)]) == pytest.approx(2 / 2**n)
    assert least_sign_flip_p(n) == pytest.approx(2 / 2**n)


def test_the_sign_flip_test_by_hand() -> None:
    """Of 3, 2 and -1 the mean is 4/3; 6 and 4 thirds are as large: +++, ++- and their negatives, 4 of 8 patterns."""
    assert sign_flip_p([3.0, 2.0, -1.0]) == pytest.approx(4 / 8)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([0.3]) == least_sign_flip_p(1) == 1.0
