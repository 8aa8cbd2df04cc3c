"""ExoRL's own tasks: rewards by hand at states made by hand, and mazes with walls."""

import numpy as np
import pytest
from dm_control.utils import inverse_kinematics

import envs
from envs import dmc, specs
from envs.exorl_tasks import jaco, point_mass_maze
from envs.scores import normalised_score

# dm_control 1.0.50 does so wherever it looks up a name.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
OF_EXORL = {
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse"),
    "cheetah": ("run", "run_backward", "flip", "flip_backward"),
    "hopper": ("hop_backward", "flip", "flip_backward"),
    "jaco": tuple(f"reach_{corner}" for corner in CORNERS),
    "point_mass_maze": tuple(f"reach_{corner}" for corner in CORNERS),
    "quadruped": ("walk", "run", "stand", "jump", "roll", "roll_fast"),
    "walker": ("stand", "walk", "run", "flip"),
}


def physics_of(name):
    """A dm_control Physics of the task, at its model's own pose and at rest."""
    physics = dmc.load_suite(envs.spec(name), np.random.RandomState(0)).physics
    physics.reset()
    physics.forward()
    return physics


def reward_at(name, positions=None, velocities=None, action=0.0):
    """The reward of the model's own pose with some joints moved, by name."""
    physics = physics_of(name)
    for joint, value in (positions or {}).items():
        physics.named.data.qpos[joint] = value
    for joint, value in (velocities or {}).items():
        physics.named.data.qvel[joint] = value
    actions = np.broadcast_to(np.float32(action), (1, envs.spec(name).action_size))
    return float(envs.reward_fn(name)(physics.get_state()[None], actions)[0])


def inertia(name):
    """About the y axis through the centre of mass of the model's own pose: Steiner's theorem, body by body."""
    physics = physics_of(name)
    mass, places = physics.model.body_mass[1:], physics.data.xipos[1:]
    arms = places - mass @ places / mass.sum()
    own = (physics.data.ximat[1:].reshape(-1, 3, 3)[:, 1] ** 2 * physics.model.body_inertia[1:]).sum(1)
    return float((own + mass * (arms[:, 0] ** 2 + arms[:, 2] ** 2)).sum())


def test_every_task_of_exorl_is_an_environment():
    for domain, tasks in OF_EXORL.items():
        for task in tasks:
            assert envs.spec(f"{domain}_{task}")[1:3] == (domain, task)
    assert {size.domain for size in specs.SUITE} == set(OF_EXORL)


@pytest.mark.parametrize(("speed", "reward"), [(-5, 0.5), (-20, 1), (0, 0), (5, 0)])
def test_the_cheetah_is_paid_for_speed_backward(speed, reward):
    assert reward_at("cheetah_run_backward", velocities={"rootx": speed}) == pytest.approx(reward, abs=1e-6)


@pytest.mark.parametrize(("speed", "reward"), [(-1, 0.5), (-2, 1), (-0.5, 0.25), (1, 0)])
def test_the_hopper_is_paid_for_hopping_backward_while_it_stands(speed, reward):
    assert reward_at("hopper_hop_backward", velocities={"rootx": speed}) == pytest.approx(reward, abs=1e-6)
    assert reward_at("hopper_hop_backward", {"rooty": np.pi}, {"rootx": speed}) == 0


@pytest.mark.parametrize("domain", ["cheetah", "hopper", "walker"])
@pytest.mark.parametrize(("momentum", "spin"), [(2.5, 0.5), (4, 0.8), (7, 1), (0, 0), (-2.5, 0)])
def test_a_flip_is_paid_for_angular_momentum(domain, momentum, spin):
    turning = {"rooty": momentum / inertia(f"{domain}_flip")}
    expected = (5 * spin + 1) / 6 if domain == "walker" else spin
    assert reward_at(f"{domain}_flip", velocities=turning) == pytest.approx(expected, abs=1e-6)
    if domain != "walker":
        back = {joint: -rate for joint, rate in turning.items()}
        assert reward_at(f"{domain}_flip_backward", velocities=back) == pytest.approx(expected, abs=1e-6)


def test_a_flip_needs_the_walker_high_and_the_hopper_above_its_foot():
    turning = {"rooty": 100.0}
    assert reward_at("hopper_flip", {"rooty": np.pi}, turning) == 0
    assert reward_at("walker_flip", {"rooty": np.pi}, turning) == pytest.approx(3 / 4)  # high, but not upright
    low = 3 / 4 * 0.1 + 1 / 4  # half of the height asked for: the margin, where the tolerance is 0.1
    assert reward_at("walker_flip", {"rootz": -0.7}, turning) == pytest.approx(low, abs=1e-6)


def tilted(angle):
    """Position of the quadruped's root, 2 m up, turned about the x axis."""
    return {"root": (0, 0, 2, np.cos(angle / 2), np.sin(angle / 2), 0, 0)}


@pytest.mark.parametrize(("angle", "upright"), [(0, 1), (np.pi / 3, 0.75), (np.pi / 2, 0.5), (np.pi, 0)])
def test_the_quadruped_is_paid_for_a_level_torso(angle, upright):
    assert reward_at("quadruped_stand", tilted(angle)) == pytest.approx(upright, abs=1e-6)
    assert reward_at("quadruped_jump", tilted(angle)) == pytest.approx(upright, abs=1e-6)  # above 1 m
    assert reward_at("quadruped_roll", tilted(angle)) == pytest.approx(0.5 * upright, abs=1e-6)  # at rest


@pytest.mark.parametrize("velocity", [(0.25, 0, 0), (0, -0.25, 0), (0.15, 0, 0.2)])
def test_the_quadruped_may_roll_in_any_direction(velocity):
    moving = {"root": (*velocity, 0, 0, 0)}
    fast = {"root": (*(10 * np.array(velocity)), 0, 0, 0)}
    assert reward_at("quadruped_roll", tilted(0), moving) == pytest.approx(0.75, abs=1e-6)
    assert reward_at("quadruped_roll_fast", tilted(0), fast) == pytest.approx(0.75, abs=1e-6)
    assert reward_at("quadruped_roll", tilted(np.pi / 3), fast) == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize(("height", "reward"), [(0.5, 0.75), (0.2, 0.6), (1.5, 1)])
def test_the_quadruped_is_paid_for_the_height_of_its_centre_of_mass(height, reward):
    physics = physics_of("quadruped_jump")
    mass, places = physics.model.body_mass[1:], physics.data.xipos[1:]
    own = float(mass @ places[:, 2] / mass.sum()) - physics.named.data.qpos["root"][2]
    there = {"root": (0, 0, height - own, 1, 0, 0, 0)}
    assert reward_at("quadruped_jump", there) == pytest.approx(reward, abs=1e-6)


@pytest.mark.parametrize("corner", CORNERS)
def test_the_point_mass_is_paid_at_its_goal_for_little_control(corner):
    name = f"point_mass_maze_reach_{corner}"
    x, y = 0.15 * (-1 if "left" in corner else 1), 0.15 * (1 if "top" in corner else -1)
    assert reward_at(name, {"root_x": x, "root_y": y}) == 1
    beside = {"root_x": x + 0.018, "root_y": y - 0.024}  # 0.03 m away: a radius outside of the goal
    assert reward_at(name, beside) == pytest.approx(0.1, abs=1e-6)
    assert reward_at(name, beside, action=[1, 0]) == pytest.approx(0.1 * (0.5 + 4) / 5, abs=1e-6)
    assert reward_at(name, beside, action=[-0.5, 1]) == pytest.approx(0.1 * (0.375 + 4) / 5, abs=1e-6)
    assert reward_at(name, {"root_x": -x, "root_y": y}) < 1e-6


@pytest.mark.parametrize(
    ("start", "push", "end"),
    [
        ((-0.25, 0.15), (1, 0), (-0.03, 0.15)),  # through the goal, against the wall
        ((-0.15, 0.25), (0, -1), (-0.15, 0.03)),
        ((-0.1, -0.1), (0, 1), (-0.1, -0.03)),
        ((-0.1, 0.24), (1, 0), (0.29, 0.24)),  # through the gap, against the outer wall
        ((0.24, 0.1), (0, -1), (0.24, -0.29)),
    ],
)
def test_the_maze_has_walls_and_gaps(start, push, end):
    env = envs.make("point_mass_maze_reach_top_left")
    env.reset(seed=0)
    env._data.qpos[:], env._data.qvel[:] = start, 0
    env._physics.forward()
    for _ in range(500):
        observation = env.step(np.array(push, np.float32))[0]
    np.testing.assert_allclose(observation[:2], end, atol=5e-3)


def test_the_point_mass_starts_anywhere_in_the_top_left_corner():
    env = envs.make("point_mass_maze_reach_bottom_right")
    starts = np.array([env.reset(seed=seed)[0] for seed in range(200)])
    np.testing.assert_array_equal(starts[:, 2:], 0)
    np.testing.assert_allclose(starts[:, :2].min(0), (-0.29, 0.15), atol=5e-3)
    np.testing.assert_allclose(starts[:, :2].max(0), (-0.15, 0.29), atol=5e-3)


@pytest.mark.parametrize("corner", CORNERS)
def test_the_arm_is_paid_for_its_fingers_near_the_goal(corner):
    name = f"jaco_reach_{corner}"
    x, y = 0.09 * (-1 if "left" in corner else 1), 0.09 * (1 if "top" in corner else -1)
    physics = physics_of(name)
    state = np.zeros((3, 18))
    for row, above in enumerate((0.1, 0.075, 0.04)):
        found = inverse_kinematics.qpos_from_site_pose(
            physics,
            "jaco_arm/jaco_hand/pinchsite",
            target_pos=(x, y, 0.001 + above),
            joint_names=[f"jaco_arm/joint_{number}" for number in range(1, 7)],
            tol=1e-12,
        )
        state[row, :9] = found.qpos
    rewards = envs.reward_fn(name)(state, np.zeros((3, 9), np.float32))
    np.testing.assert_allclose(rewards, (0.1, 0.1**0.25, 1), atol=1e-5)  # one radius outside, half of one, inside


def test_the_arm_sees_its_joints_and_its_fingers_place_and_not_the_goal():
    left, right = envs.make("jaco_reach_top_left"), envs.make("jaco_reach_bottom_right")
    np.testing.assert_array_equal(left.reset(seed=5)[0], right.reset(seed=5)[0])
    observation = left.step(np.zeros(9, np.float32))[0]
    state = left.physics_state()
    np.testing.assert_allclose(observation[0:12:2], np.sin(state[:6]), atol=1e-6)
    np.testing.assert_allclose(observation[1:12:2], np.cos(state[:6]), atol=1e-6)
    np.testing.assert_allclose(observation[18:24], state[9:15], atol=1e-6)
    np.testing.assert_allclose(observation[24:30], [*state[6:9], *state[15:18]], atol=1e-6)
    place, rotation = observation[30:33], observation[33:42].reshape(3, 3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    distance = np.linalg.norm(place - jaco.GOALS["reach_top_left"])
    reward = envs.reward_fn("jaco_reach_top_left")(state[None], np.zeros((1, 9), np.float32))[0]
    assert reward == pytest.approx(0.1 ** (max(distance / 0.05 - 1, 0) ** 2), abs=1e-6)


@pytest.mark.parametrize("domain", sorted(set(OF_EXORL) - {"cartpole"}))
def test_the_tasks_of_a_domain_share_states_and_observations(domain):
    names = [size.name for size in specs.SUITE if size.domain == domain]
    played = []
    for name in names:
        env, rng = envs.make(name), np.random.default_rng(1)
        rows = [env.reset(seed=2)[0]]
        for _ in range(10):
            rows.append(env.step(rng.uniform(-1, 1, env.size.action_size).astype(np.float32))[0])
        played.append((np.array(rows), env.physics_state()))
    for observations, state in played[1:]:
        np.testing.assert_array_equal(observations, played[0][0])
        np.testing.assert_array_equal(state, played[0][1])


def test_a_change_in_dm_controls_point_mass_is_told(monkeypatch):
    monkeypatch.setattr(point_mass_maze.common, "read_model", lambda name: "<mujoco><option/><worldbody/></mujoco>")
    with pytest.raises(ValueError, match=r"point_mass.xml: no flag\[@contact='disable'\] in option"):
        point_mass_maze.model((0, 0, 0))


def test_the_suites_hopper_is_scored_apart_from_d4rls():
    assert normalised_score("hopper_flip", 250.0) == 25.0
    assert normalised_score("hopper-medium-v2", 3234.3) == pytest.approx(100.0)
