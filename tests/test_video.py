"""The animated picture, from pictures made up: no OpenGL is needed."""

import io

import gymnasium
import numpy as np
import pytest
from PIL import Image

import envs
from launch import video
from launch.video import Axes, Moment, Recorder

GREY = np.full((240, 320, 3), 128, np.uint8)


class Short(gymnasium.Env):
    """Episodes of 25, 45, 65, ... steps, of 2 a step; the picture is as bright as the timestep."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}  # noqa: RUF012 - gymnasium's own attribute
    render_mode = "rgb_array"
    length = 5

    def reset(self, *, seed=None, options=None):
        self.t, self.length, self.options = 0, self.length + 20, options
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 2.0, self.t >= self.length, False, {}

    def render(self):
        return np.full_like(GREY, self.t)


@pytest.fixture
def recorder(monkeypatch):
    """One that has seen three episodes."""
    monkeypatch.setattr(envs, "make", lambda name, render_mode: Short())
    made = Recorder("walker_run", 3, {"task": 1.5})
    for _ in range(3):
        made.reset(seed=0)
        while not made.step(np.zeros(1))[2]:
            pass
    return made


def test_moments_are_of_the_first_and_last_episode_and_hold_the_return_so_far(recorder):
    assert recorder.unwrapped.options == {"task": 1.5}
    assert list(recorder.moments) == [0, 2]
    for number, times in ((0, [0, 8, 16, 24, 25]), (2, [*range(0, 65, 8), 65])):
        kept = recorder.moments[number]
        assert [(moment.timestep, moment.earned) for moment in kept] == [(t, 2 * t) for t in times]
        assert [moment.picture[0, 0, 0] for moment in kept] == times


def test_the_file_says_what_it_shows_and_the_shorter_episode_waits(recorder, tmp_path):
    recorder.save(tmp_path / "rollout.gif", 100, "somebody")
    with Image.open(tmp_path / "rollout.gif") as picture:
        words = picture.info["comment"].decode()
        # 8 steps of 100 a second in the 0.05 s of a picture.
        assert words.startswith("somebody: episode 1 and episode 3, 1.6 times as fast as life.") and "of 100" in words
        assert picture.n_frames == 10
    drawn = video.frames(recorder.moments, 100, 100)
    left = [np.asarray(each)[:, :320] for each in drawn]
    assert (left[4] != left[5]).any()  # now it says that it has ended
    for later in left[6:]:
        np.testing.assert_array_equal(later, left[5])


def test_a_single_episode_stands_alone():
    drawn = video.frames({0: [Moment(0, 0.0, GREY)]}, 0, 40)
    assert [picture.size for picture in drawn] == [(320, 240 + video.CAPTION + video.CURVE)]


def test_the_places_of_a_curve_by_hand():
    axes = Axes(50, -100, 120)
    assert axes.at(0, -100, 320, 110) == (0, 110)
    assert axes.at(25, 10, 320, 110) == pytest.approx((160, 60))
    assert axes.at(50, 120, 320, 110) == pytest.approx((320, 10))


def test_no_returns_at_all_can_be_drawn():
    assert Axes(0, 0, 0).at(0, 0, 320, 110) == (0, 110)


def test_a_thousand_noisy_steps_stay_below_five_megabytes():
    rng = np.random.default_rng(0)
    night = np.where(rng.random((240, 320, 1)) < 0.02, 200, [[[20, 30, 60]]]).astype(np.uint8)
    moments = [Moment(8 * i, 4.0 * i, np.roll(night, 3 * i, axis=1)) for i in range(126)]
    drawn = video.frames({0: moments, 7: moments}, 454, 40)
    file = video.animated(drawn, "stars")
    assert len(file) < 5e6
    with Image.open(io.BytesIO(file)) as picture:
        assert picture.n_frames == 126


def test_what_cannot_be_drawn_is_said_at_once(monkeypatch):
    class Blind(Short):
        def render(self):
            raise RuntimeError("cannot draw: no OpenGL")

    monkeypatch.setattr(envs, "make", lambda name, render_mode: Blind())
    with pytest.raises(OSError, match="--video: cannot draw: no OpenGL"):
        video.check_drawing("walker_run")
