"""The scale of the network's inputs, against numbers by hand."""

import numpy as np
import pytest

from data.scaling import STD_FLOOR, Scaling
from data.trajectory import Trajectory


def trajectory(observations, rewards):
    observations = np.array(observations, np.float32)
    return Trajectory(observations, np.zeros((len(observations), 1), np.float32), np.array(rewards, np.float32))


def test_moments_are_those_of_all_steps_whatever_the_lengths():
    short = trajectory([[0.0, 5.0]], [2.0])
    long = trajectory([[3.0, 5.0], [3.0, 5.0], [6.0, 5.0]], [1.0, -4.0, -3.0])
    scaling = Scaling.fit([short, long])
    np.testing.assert_allclose(scaling.mean, [3.0, 5.0])
    np.testing.assert_allclose(scaling.std, [np.sqrt(18 / 4), STD_FLOOR], rtol=1e-6)
    assert scaling.return_scale == 6.0  # |1 - 4 - 3|
    assert scaling.reward_scale == 3.0  # over a mean of 2 steps
    assert scaling.mean.dtype == scaling.std.dtype == np.float32


def test_a_large_mean_does_not_drown_a_small_deviation():
    rng = np.random.default_rng(0)
    values = (1000 + 0.1 * rng.standard_normal((3, 500, 1))).astype(np.float32)
    scaling = Scaling.fit([trajectory(v, np.ones(500)) for v in values])
    np.testing.assert_allclose(scaling.std, np.std(values.astype(np.float64), axis=(0, 1)), rtol=1e-6)


def test_rewards_of_nought_leave_returns_as_they_are():
    scaling = Scaling.fit([trajectory([[0.0], [1.0]], [0.0, 0.0])])
    assert scaling.return_scale == 1.0
    assert scaling.scale_returns(0.25) == 0.25


def test_unscaling_undoes_scaling():
    scaling = Scaling(np.array([1.0, 2.0], np.float32), np.array([0.5, 4.0], np.float32), 8.0, 2.0)
    observations = np.array([[2.0, 2.0], [1.0, 10.0]], np.float32)
    np.testing.assert_array_equal(scaling.scale_observations(observations), [[2, 0], [0, 2]])
    np.testing.assert_array_equal(scaling.unscale_observations(scaling.scale_observations(observations)), observations)
    assert scaling.scale_returns(4.0) == 0.5
    assert scaling.unscale_returns(0.5) == 4.0
    assert scaling.scale_rewards(4.0) == 2.0
    assert scaling.unscale_rewards(2.0) == 4.0


def test_no_trajectories_are_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        Scaling.fit([])
