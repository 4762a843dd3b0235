import numpy as np
import pytest

from oprime_cli.report.localisation_scores import best_threshold, first_wrong_auc, found_and_passed, harmonic_mean, localise, named_step

# Three wrong chains of three steps; the marked ones are wrong.
WRONG = np.array([[0.0, -2.0, 0.0], [-1.0, 0.0, -3.0], [0.0, 0.0, 0.0]])
IS_WRONG = np.array([[False, True, False], [True, False, True], [False, False, True]])
RIGHT = np.array([[0.0, 0.0, -1.0], [1.0, 1.0, 1.0]])


def test_auc_counts_pairs_of_a_first_wrong_step_and_a_right_step() -> None:
    # First wrong steps: -2, -1, 0. Right steps: 0 0 | 0 | 0 0 of the wrong chains, 0 0 -1 1 1 1 of the right ones: eleven.
    # -2 is below all 11; -1 is below 10 and ties with one (10.5); 0 is below three and ties with seven (6.5).
    assert first_wrong_auc(WRONG, IS_WRONG, RIGHT) == pytest.approx((11 + 10.5 + 6.5) / 33)


def test_auc_leaves_out_wrong_steps_after_the_first() -> None:
    # Were the later wrong step (-3) counted as right, the first one (-1) would lose against it.
    assert first_wrong_auc(np.array([[-1.0, 0.0, -3.0]]), np.array([[True, False, True]]), np.array([[0.0, 0.0, 0.0]])) == 1.0


def test_auc_of_scores_that_say_nothing_is_a_half() -> None:
    assert first_wrong_auc(np.zeros((2, 3)), IS_WRONG[:2], np.zeros((2, 3))) == 0.5


def test_the_first_step_below_the_threshold_is_named() -> None:
    # -0.5 is the threshold: the second step; the first, not the lowest; no step.
    np.testing.assert_array_equal(named_step(WRONG, -0.5), [1, 0, -1])


def test_a_step_at_the_threshold_is_not_below_it() -> None:
    np.testing.assert_array_equal(named_step(np.array([[-1.0, -2.0]]), -1.0), [1])


def test_found_and_passed_are_shares_of_wrong_and_of_right_chains() -> None:
    # Of the wrong chains the first two are found; of the right ones only the second has no step below -0.5.
    found, passed = found_and_passed(WRONG, np.array([1, 0, 2]), RIGHT, -0.5)
    assert (found, passed) == (pytest.approx(2 / 3), pytest.approx(1 / 2))


def test_the_best_threshold_lies_midway_between_the_scores_it_parts() -> None:
    wrong, right = np.array([[0.0, -4.0], [-5.0, 0.5]]), np.array([[0.0, 0.5], [0.25, 0.0]])
    # Between -4 and 0 both wrong chains are found and both right ones pass.
    assert best_threshold(wrong, np.array([1, 0]), right) == -2.0


@pytest.mark.parametrize(("a", "b", "mean"), [(1.0, 1.0, 1.0), (0.5, 1.0, 2 / 3), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)])
def test_harmonic_mean(a: float, b: float, mean: float) -> None:
    assert harmonic_mean(a, b) == pytest.approx(mean)


def test_f1_is_measured_on_the_second_half_with_the_threshold_of_the_first() -> None:
    # First half: -4 against 0, so the threshold is -2. Second half: the wrong step scores -1 and goes unnoticed in one of two
    # wrong chains; both right chains pass: F1 = 2 * 0.5 * 1 / 1.5.
    wrong = np.array([[0.0, -4.0], [0.0, -4.0], [0.0, -3.0], [0.0, -1.0]])
    is_wrong = np.array([[False, True]] * 4)
    right = np.zeros((4, 2))
    measured = localise(wrong, is_wrong, right)
    assert (measured.threshold, measured.found_wrong, measured.passed_right) == (-2.0, 0.5, 1.0)
    assert measured.f1 == pytest.approx(2 / 3)
    assert (measured.auc, measured.top1) == (1.0, 1.0)


def test_top1_asks_for_the_lowest_step() -> None:
    # Lowest: step 1 (right), step 2 of the second chain (wrong, but not the first), step 0 by the first of equals (right).
    assert localise(WRONG, IS_WRONG, RIGHT).top1 == pytest.approx(1 / 3)


def test_one_chain_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match=r"1 wrong and 2 right chains.*at least 2"):
        localise(WRONG[:1], IS_WRONG[:1], RIGHT)
