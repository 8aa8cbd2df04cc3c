"""Environments: the suite's own numbers, and rewards that can be computed again from stored states."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs import dmc, specs

NAMES = [size.name for size in specs.SUITE]
FIRST = [
    next(size.name for size in specs.SUITE if size.domain == domain) for domain in {s.domain: 0 for s in specs.SUITE}
]

# dm_control 1.0.50 does so wherever it looks up a name.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")


def random_episode(env, seed, steps):
    """Physics, actions and rewards, one row a step."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    rows = []
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.size.action_size).astype(np.float32)
        reward = env.step(action)[1]
        rows.append((env.physics_state(), action, reward))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_episode_equals_dm_controls_own(name):
    env, size = envs.make(name), envs.spec(name)
    reference = dmc.load_suite(size, np.random.RandomState(3))
    limits = reference.action_spec()
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=3)
    step = reference.reset()
    for timestep in range(1, (size.episode_length if name in FIRST else 40) + 1):
        flat = np.concatenate([np.ravel(part) for part in step.observation.values()])
        np.testing.assert_array_equal(observation, flat.astype(np.float32))
        np.testing.assert_array_equal(env.physics_state(), reference.physics.get_state())
        action = rng.uniform(-1, 1, size.action_size).astype(np.float32)
        step = reference.step((limits.maximum + limits.minimum) / 2 + (limits.maximum - limits.minimum) / 2 * action)
        observation, reward, terminated, truncated, _ = env.step(action)
        assert reward == step.reward
        assert (terminated, truncated) == (False, timestep == size.episode_length)
        assert truncated == step.last()


@pytest.mark.parametrize("name", NAMES)
def test_the_length_stated_is_the_time_limit_of_the_task(name):
    reference = dmc.load_suite(envs.spec(name), np.random.RandomState(0))
    reference.reset()
    reference._step_count = envs.spec(name).episode_length - 2
    ends = [reference.step(np.zeros(envs.spec(name).action_size)).last() for _ in range(2)]
    assert ends == [False, True]


@pytest.mark.parametrize("name", NAMES)
def test_relabelling_gives_every_reward_the_simulator_gave(name):
    physics, actions, rewards = random_episode(envs.make(name), 0, 200)
    np.testing.assert_array_equal(envs.reward_fn(name)(physics, actions), rewards.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "low", "middle", "high"),
    [
        ("walker_run", [-1] * 6, [0] * 6, [1] * 6),
        ("quadruped_run", [-1, -1, -0.8] * 4, [0, 0.05, 0] * 4, [1, 1.1, 0.8] * 4),
        (
            "jaco_reach_top_left",
            [*np.deg2rad([-36.0] * 3 + [-48.0] * 3), *[-5] * 3],
            [0] * 9,
            [*np.deg2rad([36.0] * 3 + [48.0] * 3), *[5] * 3],
        ),
    ],
)
def test_actions_reach_from_one_end_of_the_actuators_to_the_other(name, low, middle, high):
    env = envs.make(name)
    env.reset(seed=0)
    for action, control in ((-1, low), (0, middle), (1, high)):
        env.step(np.full(len(low), action, np.float32))
        np.testing.assert_allclose(env.unwrapped._data.ctrl, control, atol=1e-12)


@pytest.mark.parametrize("name", ["cartpole_swingup", "hopper_stand", "point_mass_maze_reach_top_left"])
def test_rewards_that_ask_for_little_control_depend_on_the_action_stored(name):
    physics, actions, rewards = random_episode(envs.make(name), 0, 50)
    forgetful = envs.reward_fn(name)(physics, np.zeros_like(actions))
    assert np.all(forgetful >= rewards - 1e-6)
    assert np.any(forgetful > 1.1 * rewards)


def test_data_of_one_task_serve_another_of_its_domain():
    walk = envs.make("walker_walk")
    physics, actions, rewards = random_episode(envs.make("walker_run"), 1, 50)
    walk_physics, _walk_actions, walk_rewards = random_episode(walk, 1, 50)
    np.testing.assert_array_equal(physics, walk_physics)
    np.testing.assert_array_equal(envs.reward_fn("walker_walk")(physics, actions), walk_rewards.astype(np.float32))
    assert not np.allclose(rewards, walk_rewards)


def test_a_reward_function_pickles_and_says_which_sizes_it_expects():
    rewards = pickle.loads(pickle.dumps(envs.reward_fn("walker_run")))
    assert rewards(np.zeros((2, 18)), np.zeros((2, 6), np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match=r"walker_run: physics \(2, 17\).* expected \(2, 18\)"):
        rewards(np.zeros((2, 17)), np.zeros((2, 6), np.float32))


def test_the_seed_alone_decides_the_initial_state():
    one, two = envs.make("walker_run"), envs.make("walker_run")
    two.reset(seed=1)
    two.reset()
    np.testing.assert_array_equal(one.reset(seed=7)[0], two.reset(seed=7)[0])
    np.testing.assert_array_equal(one.physics_state(), two.physics_state())
    assert not np.array_equal(one.reset()[0], two.reset(seed=8)[0])


@pytest.mark.parametrize("name", ["quadruped_walk", "quadruped_jump"])
def test_the_quadruped_starts_alike_whatever_blas_makes_of_a_norm(name, monkeypatch):
    norm = np.linalg.norm
    monkeypatch.setattr(np.linalg, "norm", lambda x: np.nextafter(norm(x), 9))
    env = envs.make(name)
    env.reset(seed=0)  # by fused products it ends in 93, 6b and 85
    expected = "0x1.28f1a6ff346ebp-1 0x1.0d6f4dba68892p-3 0x1.4980c8dce66cap-2 0x1.7935fa61d5a84p-1"
    assert [x.hex() for x in env.physics_state()[3:7].tolist()] == expected.split()


@pytest.mark.filterwarnings("ignore:.*Box observation space")  # positions and velocities have no bounds
@pytest.mark.parametrize("name", FIRST)
def test_gymnasiums_checker_passes(name):
    check_env(envs.make(name), skip_render_check=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_stated_are_those_of_the_simulator(name):
    env, size = envs.make(name), envs.spec(name)
    assert env.reset(seed=0)[0].shape == (size.observation_size,)
    assert env.physics_state().shape == (size.physics_size,)
    assert dmc.load_suite(size, np.random.RandomState(0)).action_spec().shape == (size.action_size,)


@pytest.mark.parametrize("name", FIRST)
def test_a_second_has_as_many_pictures_as_steps(name):
    step = dmc.load_suite(envs.spec(name), np.random.RandomState(0)).control_timestep()
    assert envs.make(name).metadata["render_fps"] * step == pytest.approx(1)


def test_an_unknown_name_lists_the_known_ones():
    for ask in (envs.spec, envs.make, envs.reward_fn):
        with pytest.raises(ValueError, match=r"walker_fly.*expected one of: walker_stand.*quadruped_run"):
            ask("walker_fly")


def test_rendering_must_be_asked_for_and_no_opengl_is_loaded_before():
    with pytest.raises(ValueError, match="'human', expected None or 'rgb_array'"):
        envs.make("walker_run", "human")
    with pytest.raises(RuntimeError, match="expected 'rgb_array'"):
        envs.make("walker_run").render()
    code = (
        "import envs, sys; envs.make('walker_run').reset(seed=0); "
        "sys.exit(any(name.startswith(('OpenGL', 'mujoco.egl', 'glfw')) for name in sys.modules))"
    )
    env = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0


@pytest.mark.parametrize("name", ["walker_run", "hopper-medium-v2"])
def test_a_mujoco_gl_that_does_not_load_is_named(name):
    code = f"import envs; envs.make('{name}')"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MUJOCO_GL": "vulkan"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "OSError: MUJOCO_GL=vulkan: MuJoCo does not load with it" in ran.stderr and "unset it" in ran.stderr
