"""D4RL's names played in gymnasium: the same numbers as gymnasium's own, sizes as stated, ends where they should be."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs import mujoco

PLAYED = [spec.name for spec in mujoco.SPECS if spec.simulator == "gymnasium"]
BODIES = ["halfcheetah-medium-v2", "hopper-random-v2", "walker2d-full-replay-v2", "ant-expert-v2"]
OWN = [f"{body}-v{version}" for body in ("HalfCheetah", "Hopper", "Walker2d", "Ant") for version in (4, 5)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """One to be in, for MuJoCo's log: gymnasium's model of the HalfCheetah is old, which MuJoCo writes down."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*is out of date")
@pytest.mark.parametrize("name", BODIES + OWN)
def test_an_episode_equals_gymnasiums_own(name):
    env, spec = envs.make(name), envs.spec(name)
    reference = gymnasium.make(spec.env_id)
    rng = np.random.default_rng(0)
    observation, expected = env.reset(seed=3)[0], reference.reset(seed=3)[0]
    ended, steps = False, 0
    while not ended:
        np.testing.assert_array_equal(observation[: len(expected)], expected.astype(np.float32))
        assert not observation[len(expected) :].any()
        data = reference.unwrapped.data
        np.testing.assert_array_equal(env.physics_state(), np.concatenate((data.qpos, data.qvel)))
        action = rng.uniform(-1, 1, spec.action_size).astype(np.float32)
        observation, *outcome, _ = env.step(action)
        expected, *expected_outcome, _ = reference.step(action)
        assert outcome == expected_outcome
        ended, steps = outcome[1] or outcome[2], steps + 1
    assert outcome[1] or steps == 1000
    if name.startswith(("hopper", "Hopper", "walker", "Walker")):
        assert outcome[1] and steps < 200  # a random policy falls


@pytest.mark.parametrize("name", PLAYED)
def test_the_sizes_stated_are_those_of_the_simulator(name):
    env, spec = envs.make(name), envs.spec(name)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (spec.observation_size,) and observation.dtype == np.float32
    assert env.physics_state().shape == (spec.physics_size,) and env.physics_state().dtype == np.float64
    assert (env.action_space.low, env.action_space.high) == (pytest.approx(-1), pytest.approx(1))
    assert env.action_space.shape == (spec.action_size,)


def test_d4rls_sizes_are_those_of_its_files():
    sizes = {spec.domain: spec[3:7] for spec in mujoco.SPECS if spec.domain.startswith("d4rl-")}
    assert sizes["d4rl-halfcheetah"] == (17, 6, 18, 1000)
    assert sizes["d4rl-hopper"] == (11, 3, 12, 1000)
    assert sizes["d4rl-walker2d"] == (17, 6, 18, 1000)
    assert sizes["d4rl-ant"] == (111, 8, 29, 1000)
    assert sizes["d4rl-antmaze"][:2] == (29, 8) and sizes["d4rl-kitchen"][:2] == (60, 9)
    assert len({spec.name for spec in mujoco.SPECS}) == len(mujoco.SPECS) == 24 + 12 + 3 + 8


def test_d4rls_names_are_played_in_v4_for_v5_is_another_task():
    assert {envs.spec(name).env_id[-3:] for name in BODIES} == {"-v4"}
    four, five = (envs.make(f"Walker2d-v{version}").unwrapped._env.model for version in (4, 5))
    friction = lambda model: [model.geom(name).friction[0] for name in ("foot_geom", "foot_left_geom")]  # noqa: E731
    assert friction(four) == [0.9, 1.9] and friction(five) == [1.9, 1.9]


def test_the_time_limit_is_gymnasiums():
    for name in PLAYED:
        assert gymnasium.spec(envs.spec(name).env_id).max_episode_steps == envs.spec(name).episode_length


@pytest.mark.parametrize("name", BODIES)
def test_a_seed_gives_the_same_episode_and_no_seed_goes_on(name):
    one, two = envs.make(name), envs.make(name)
    np.testing.assert_array_equal(one.reset(seed=7)[0], two.reset(seed=7)[0])
    second = one.reset()[0]
    np.testing.assert_array_equal(second, two.reset()[0])
    assert not np.array_equal(second, one.reset(seed=7)[0])


@pytest.mark.filterwarnings("ignore:.*Box observation space")  # positions and velocities have no bounds
@pytest.mark.parametrize("name", [*BODIES, "Ant-v5"])
def test_gymnasiums_checker_passes(name):
    check_env(envs.make(name), skip_render_check=True)


def test_making_an_environment_leaves_no_log(folder):
    envs.make("halfcheetah-medium-v2").reset(seed=0)
    assert list(folder.iterdir()) == []


def test_data_without_a_simulator_say_so():
    for name in ("antmaze-large-diverse-v2", "kitchen-complete-v0"):
        with pytest.raises(ValueError, match=f"^{name}: its data can be used, but there is no simulator"):
            envs.make(name)
        assert envs.reward_fn(name) is None


def test_a_diverged_simulation_is_an_error_not_a_new_start():
    env = envs.make("HalfCheetah-v5")
    env.reset(seed=0)
    env._env.data.qvel[:] = 1e9
    with pytest.raises(RuntimeError, match="HalfCheetah-v5: the simulation diverged at step 0"):
        for _ in range(3):
            env.step(np.zeros(6, np.float32))


def test_rendering_must_be_asked_for():
    with pytest.raises(ValueError, match="hopper-medium-v2: render_mode is 'human', expected None or 'rgb_array'"):
        envs.make("hopper-medium-v2", "human")
    with pytest.raises(RuntimeError, match="expected 'rgb_array'"):
        envs.make("hopper-medium-v2").render()


def test_the_tables_load_no_simulator_and_an_environment_no_opengl():
    code = (
        "import envs, sys; envs.spec('hopper-medium-v2'); early = {'gymnasium', 'mujoco', 'h5py'} & set(sys.modules); "
        "envs.make('hopper-medium-v2').reset(seed=0); "
        "sys.exit(bool(early) or any(name.startswith(('OpenGL', 'mujoco.egl')) for name in sys.modules))"
    )
    env = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0
