"""Interquartile means and bootstrap intervals: by hand, and by how often they hold the truth."""

import numpy as np
import pytest
import scipy.stats

from launch.intervals import (
    draw_counts,
    draw_strata,
    of_interquartile_mean,
    of_mean,
    paired_difference,
    performance_profile,
    stratum_weights,
)


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # a quarter of three is none
        ([9.0, 1.0, 3.0, 2.0], 2.5),  # without 1 and 9
        ([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0], 3.5),  # without -50, 1 and 6, 100
    ],
)
def test_the_interquartile_mean_by_hand(values, expected):
    counts = draw_counts(1, len(values), rng(), resamples=5)
    assert of_interquartile_mean(np.array(values), counts).value == expected


@pytest.mark.parametrize("size", [4, 5, 6, 7, 24])
def test_counts_give_the_statistic_of_the_sample_they_stand_for(size):
    values = rng().normal(size=size)
    counts = draw_counts(1, size, rng(), resamples=50)
    interval = of_interquartile_mean(values, counts)
    samples = [np.repeat(values, row) for row in counts]
    by_scipy = [scipy.stats.trim_mean(sample, 0.25) for sample in samples]
    assert interval.value == pytest.approx(scipy.stats.trim_mean(values, 0.25))
    assert interval[1:] == pytest.approx(tuple(np.quantile(by_scipy, [0.025, 0.975])))


def test_strata_that_are_fixed_keep_their_size_and_others_are_drawn_whole():
    fixed = draw_counts(3, 4, rng(), resamples=200, fixed=True).reshape(200, 3, 4)
    assert (fixed.sum(axis=2) == 4).all()
    drawn = draw_counts(3, 4, rng(), resamples=200).reshape(200, 3, 4).sum(axis=2)
    assert (drawn.sum(axis=1) == 12).all() and set(np.unique(drawn)) == {0, 4, 8, 12}
    # A seed is left out of a resample with probability (2/3)^3 = 0.30.
    assert (drawn == 0).mean() == pytest.approx(0.30, abs=0.05)


def test_seeds_count_the_same_however_many_chains_they_have():
    """By hand: of 2 and 4 chains each of the first counts twice, in the sample and in every resample."""
    assert stratum_weights([2, 4]).tolist() == [2, 2, 1, 1, 1, 1]
    drawn = draw_strata([2, 4], rng(), resamples=300)
    assert drawn.shape == (300, 6) and (drawn.sum(axis=1) == 8).all()
    assert set(np.unique(drawn[:, :2].sum(axis=1))) == {0, 4, 8}
    fixed = draw_strata([2, 4], rng(), resamples=300, fixed=True)
    assert (fixed[:, :2].sum(axis=1) == 4).all() and fixed[:, 2:].max() > 1
    value = of_mean(np.array([10.0, 20.0, 1.0, 2.0, 3.0, 4.0]), fixed, stratum_weights([2, 4])).value
    assert value == pytest.approx((15 + 2.5) / 2)


def covered(true_values, make, fixed):
    held = 0
    for number, truth in enumerate(true_values):
        values = make(np.random.default_rng((1, number)))
        counts = draw_counts(*values.shape, np.random.default_rng((2, number)), resamples=500, fixed=fixed)
        interval = of_interquartile_mean(values, counts)
        held += interval.low <= truth <= interval.high
    return held / len(true_values)


def test_a_stratified_interval_holds_the_truth_about_95_times_in_100():
    assert 0.91 <= covered(np.zeros(300), lambda rng: rng.normal(size=(5, 16)), fixed=True) <= 0.98


def test_only_drawing_seeds_too_holds_what_other_seeds_would_give():
    def policies_differ(rng):
        return rng.normal(size=(8, 1)) + rng.normal(size=(8, 16))

    assert covered(np.zeros(200), policies_differ, fixed=True) < 0.65
    assert covered(np.zeros(200), policies_differ, fixed=False) > 0.85


def test_values_that_are_all_equal_have_an_interval_of_no_width():
    assert of_mean(np.full((2, 3), 7.1), draw_counts(2, 3, rng())) == pytest.approx((7.1, 7.1, 7.1))


def test_a_single_chain_has_no_interval():
    value, low, high = of_interquartile_mean(np.array([[7.0]]), draw_counts(1, 1, rng()))
    assert value == 7.0 and np.isnan([low, high]).all()


def test_the_profile_is_the_share_above_by_hand():
    profile = performance_profile(np.array([[1.0, 2.0, 2.0, 4.0]]), draw_counts(1, 4, rng()), np.array([0, 1, 2, 4]))
    np.testing.assert_array_equal(profile[0], [1.0, 0.75, 0.25, 0.0])
    assert (profile[1] <= profile[0]).all() and (profile[0] <= profile[2]).all()
    few = performance_profile(np.array([[1.0, 2.0]]), draw_counts(1, 2, rng()), np.array([1]))
    assert few[0] == 0.5 and np.isnan(few[1:]).all()


def test_a_paired_difference_takes_common_seeds_chains_and_episodes():
    one = {0: np.array([[1.0, 5.0], [2.0, 8.0]]), 3: np.zeros((2, 2))}
    other = {0: np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 99.0]]), 1: np.zeros((1, 1))}
    assert paired_difference(one, other, last=True, rng=rng()).value == 5.5  # 5 - 1 and 8 - 1
    shorter = {0: np.array([[1.0], [1.0], [99.0]]), 1: np.zeros((1, 1))}
    assert paired_difference(one, shorter, last=False, rng=rng()).value == 0.5  # 1 - 1 and 2 - 1
    assert np.isnan(paired_difference(one, shorter, last=True, rng=rng())).all()
    assert paired_difference(one, {7: np.zeros((1, 1))}, last=True, rng=rng()) is None


def test_pairing_cancels_the_luck_of_initial_states():
    luck = rng().normal(0, 100, (8, 4))
    plain = {seed: luck + seed for seed in range(3)}
    better = {seed: luck + seed + 5 for seed in range(3)}
    interval = paired_difference(better, plain, last=True, rng=rng())
    assert interval == pytest.approx((5, 5, 5))
