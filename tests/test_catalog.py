"""Data sets by name: what is found, what is said of the absent, what the card holds."""

import json

import numpy as np
import pytest

import envs
from data import catalog, d4rl, minari, unzip
from data.episode import Episode
from data.exorl import write_episode

WALKER = envs.spec("walker_run")._replace(observation_size=3, action_size=2, physics_size=4)
HOPPER = envs.spec("hopper-medium-v2")


def add(data_dir, domain, dataset, returns):
    """One episode of four steps per return."""
    for index, total in enumerate(returns):
        arrays = {
            "observation": np.zeros((5, 3), np.float32),
            "action": np.zeros((5, 2), np.float32),
            "reward": np.zeros(5, np.float32),
            "discount": np.ones(5, np.float32),
            "physics": np.full((5, 4), total / 4),
        }
        write_episode(data_dir / domain / dataset / "buffer", index, arrays)


def first_position(physics, actions):
    return physics[:, 0]


def load(data_dir, dataset="td3", **options):
    return catalog.load(WALKER, dataset, data_dir, reward_fn=first_position, workers=1, **options)


def test_the_card_counts_what_was_loaded(tmp_path):
    add(tmp_path, "walker", "td3", [0, 4, 8, 12, 16, 40])
    trajectories, card = load(tmp_path)
    assert len(trajectories) == card.episodes == 6
    assert card.steps == 24
    quartiles = (card.return_min, card.return_25, card.return_50, card.return_75, card.return_max)
    assert quartiles == (0, 5, 10, 15, 40)
    assert card.return_mean == pytest.approx(80 / 6)
    assert (card.env, card.dataset, card.path) == ("walker_run", "td3", str(tmp_path / "walker" / "td3"))
    assert card.bytes == sum(path.stat().st_size for path in tmp_path.glob("walker/td3/buffer/*"))
    assert len(card.sha256) == 64


def test_a_folder_without_episodes_is_no_data_set(tmp_path):
    assert catalog.choose(WALKER, "", tmp_path / "absent") is None
    (tmp_path / "walker" / "td3" / "buffer").mkdir(parents=True)
    add(tmp_path, "walker", "rnd", [1, 2])
    assert catalog.choose(WALKER, "", tmp_path) == "rnd"
    with pytest.raises(FileNotFoundError, match=r"On disk in .*: walker/rnd$"):
        load(tmp_path)


def test_td3_serves_when_none_is_named_then_the_alphabet(tmp_path):
    assert catalog.choose(WALKER, "", tmp_path) is None
    assert catalog.choose(WALKER, "proto", tmp_path) == "proto"
    add(tmp_path, "cheetah", "aps", [1])
    assert catalog.choose(WALKER, "", tmp_path) is None
    add(tmp_path, "walker", "commands_walker_speed", [1])
    assert catalog.choose(WALKER, "", tmp_path) is None
    add(tmp_path, "walker", "rnd", [1])
    add(tmp_path, "walker", "icm", [1])
    assert catalog.choose(WALKER, "", tmp_path) == "icm"
    add(tmp_path, "walker", "td3", [1])
    assert catalog.choose(WALKER, "", tmp_path) == "td3"


def test_an_absent_data_set_says_how_to_get_it_and_what_there_is(tmp_path):
    add(tmp_path, "walker", "td3", [1])
    with pytest.raises(FileNotFoundError) as raised:
        load(tmp_path, dataset="rnd")
    message, folder = str(raised.value), tmp_path / "walker" / "rnd"
    assert "\n" not in message and message.startswith(f"{folder}: no data set, ")
    assert "python -m launch.collect --env walker_run --agent rnd" in message
    assert f"unzip https://dl.fbaipublicfiles.com/exorl/walker/rnd.zip into {folder}" in message
    assert message.endswith("walker/td3")


@pytest.mark.parametrize("where", [".", "buffer/buffer"])
def test_episodes_in_the_wrong_place_are_found_there(tmp_path, where):
    add(tmp_path, "walker", "td3", [1])
    right, wrong = tmp_path / "walker/rnd", tmp_path / "walker/rnd" / where
    wrong.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "walker/td3/buffer").rename(wrong)
    with pytest.raises(FileNotFoundError, match=f"{right / 'buffer'}: no episodes, but {wrong} has some: move them"):
        load(tmp_path, dataset="rnd")


def test_a_download_is_not_said_to_be_collected_nor_the_reverse(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"exorl/walker/proto.zip") as raised:
        load(tmp_path, dataset="proto")
    assert "collect" not in str(raised.value) and str(raised.value).endswith("nothing")
    with pytest.raises(FileNotFoundError, match=r"--agent td3") as raised:
        load(tmp_path, dataset="td3")
    assert "unzip" not in str(raised.value)


def test_an_unknown_data_set_lists_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"known data sets are aps, .*, td3") as raised:
        load(tmp_path, dataset="rdn")
    assert "unzip" not in str(raised.value) and "collect" not in str(raised.value)


def test_released_data_may_be_named_as_such(tmp_path):
    add(tmp_path, "walker", "rnd", [1, 2, 3])
    assert load(tmp_path, "exorl/rnd").card.sha256 == load(tmp_path, "rnd").card.sha256
    assert catalog.episodes(WALKER, "exorl/rnd", tmp_path) == 3
    (tmp_path / "walker" / "rnd" / "collect.json").write_text("{}")
    with pytest.raises(ValueError, match=r"rnd: holds episodes that were collected here, expected ExoRL's"):
        load(tmp_path, "exorl/rnd")
    with pytest.raises(ValueError, match=r"--dataset: expected exorl/ and one of aps, .*, smm, got exorl/td3"):
        load(tmp_path, "exorl/td3")
    with pytest.raises(ValueError, match=r"expected the name of a folder, .* got '../rnd'"):
        load(tmp_path, "../rnd")


def test_max_steps_takes_the_first_episodes_that_fit(tmp_path):
    add(tmp_path, "walker", "td3", [1, 2, 3])
    assert [trajectory.total for trajectory in load(tmp_path, max_steps=11).trajectories] == [1, 2]
    assert len(load(tmp_path, max_steps=12).trajectories) == 3


def test_the_versions_that_made_data_are_told_from_those_there_are(tmp_path):
    add(tmp_path, "walker", "td3", [1])
    assert load(tmp_path).card.made_with == {}
    (tmp_path / "walker" / "td3" / "collect.json").write_text(
        json.dumps({"versions": {"mujoco": "3.1", "dm_control": "1"}})
    )
    made_with = load(tmp_path).card.made_with
    assert catalog.differences(made_with, {"mujoco": "3.1", "dm_control": "2"}) == ["dm_control 1, here 2"]
    assert catalog.differences(made_with, {"mujoco": "3.1"}) == ["dm_control 1, here none"]


def test_data_that_are_half_collected_are_not_trained_on(tmp_path):
    add(tmp_path, "walker", "td3", [1, 2])
    origin = tmp_path / "walker" / "td3" / "collect.json"
    origin.write_text(json.dumps({"env": "walker_run", "agent": "td3", "seed": 4, "episodes": 3}))
    with pytest.raises(
        ValueError, match=r"td3: expected 3 episodes, got 2, .* --agent td3 --seed 4 .* --episodes 3, or"
    ):
        load(tmp_path)
    assert catalog.unfinished(origin.parent)["seed"] == 4
    origin.write_text(json.dumps({"episodes": 2}))
    assert not catalog.unfinished(origin.parent) and len(load(tmp_path).trajectories) == 2


def test_drafts_are_no_data_sets(tmp_path):
    add(tmp_path, "walker", ".copy.123.tmp", [1])
    assert catalog.choose(WALKER, "", tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"On disk in .*: nothing$"):
        load(tmp_path)


def test_an_archive_that_is_half_unpacked_is_not_trained_on(tmp_path):
    add(tmp_path, "walker", "rnd", [1, 2])
    begun = tmp_path / "walker" / "rnd" / unzip.UNPACKING
    begun.touch()
    with pytest.raises(
        ValueError, match=r"rnd: not all of its archive .* fetch exorl/walker/rnd, or remove .*unpacking"
    ):
        load(tmp_path, dataset="exorl/rnd")
    begun.unlink()
    assert len(load(tmp_path, dataset="exorl/rnd").trajectories) == 2


def test_another_domain_s_bad_folder_is_nothing_to_this_one(tmp_path):
    add(tmp_path, "walker", "td3", [1])
    add(tmp_path, "cheetah", "old", [1])
    buffer = tmp_path / "cheetah" / "old" / "buffer"
    (buffer / "episode_000000_5.npz").write_bytes(next(buffer.iterdir()).read_bytes())
    assert catalog.choose(WALKER, "", tmp_path) == "td3"
    with pytest.raises(FileNotFoundError, match=r"On disk in .*: cheetah/old, walker/td3"):
        load(tmp_path, dataset="rnd")


def test_what_is_taken_of_a_data_set_is_counted_noted_and_has_a_hash_of_its_own(tmp_path):
    add(tmp_path, "walker", "td3", [1, 2, 3])
    whole, part = load(tmp_path).card, load(tmp_path, max_steps=8).card
    assert part.notes == ["--max_steps 8: the first 2 of 3 episodes"] and part.sha256 != whole.sha256
    (tmp_path / "walker" / "td3" / "buffer" / "episode_000003_4.npz").write_bytes(b"cut short")
    assert catalog.episodes(WALKER, "td3", tmp_path) == 3 == len(load(tmp_path).trajectories)


def test_data_of_exploration_are_known_by_their_name_in_every_format():
    assert all(map(catalog.is_reward_free, ("rnd", "exorl/rnd", "minari/walker/rnd-v0", "minari/icm-apt-v12")))
    assert not any(
        map(catalog.is_reward_free, ("td3", "td3_walk", "d4rl", "minari/walker/td3-v0", "minari/rnd/td3-v0"))
    )


def hop(length, reward, terminated):
    rng = np.random.default_rng(length)
    return Episode(
        rng.normal(size=(length + 1, 11)).astype(np.float32),
        rng.uniform(-1, 1, (length, 3)).astype(np.float32),
        np.full(length, reward, np.float32),
        terminated,
        {},
    )


EPISODES = [hop(5, 1.0, True), hop(3, 2.0, True), hop(1000, 0.5, False)]


def test_an_environment_of_d4rl_names_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    assert catalog.choose(HOPPER, "", tmp_path) == "d4rl"
    with pytest.raises(
        FileNotFoundError, match=r"hopper_medium-v2.hdf5: no such file in .*datasets fetch hopper-medium-v2"
    ):
        catalog.load(HOPPER, "d4rl", tmp_path, reward_fn=None, workers=1)
    d4rl.write(tmp_path / "d4rl" / "hopper_medium-v2.hdf5", EPISODES)
    trajectories, card = catalog.load(HOPPER, "d4rl", tmp_path, reward_fn=None, workers=1)
    assert [len(trajectory.rewards) for trajectory in trajectories] == [5, 3, 1000]
    assert (card.return_min, card.return_max, card.episodes) == (5.0, 500.0, 3)
    assert catalog.episodes(HOPPER, "d4rl", tmp_path) == 3
    part = catalog.load(HOPPER, "d4rl", tmp_path, reward_fn=None, workers=1, max_steps=8).card
    assert part.episodes == 2 and part.sha256 != card.sha256
    assert catalog.differences(card.made_with, {"mujoco": "3.17.0", "gymnasium": "1.4.0"})


def test_a_minari_set_is_read_by_its_name_and_an_absent_one_listed_among_those_there_are(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    plain = envs.spec("Hopper-v4")
    assert catalog.choose(plain, "", tmp_path) is None
    minari.write("made/hopper-v0", EPISODES, env_id="Hopper-v4", requirements=["mujoco==3.1", "gymnasium"])
    trajectories, card = catalog.load(plain, "minari/made/hopper-v0", tmp_path, reward_fn=None, workers=1)
    assert [trajectory.total for trajectory in trajectories] == [5.0, 6.0, 500.0]
    assert card.made_with == {"mujoco": "3.1"}
    assert catalog.load(envs.spec("Hopper-v5"), "minari/made/hopper-v0", tmp_path, reward_fn=None, workers=1)
    other = plain._replace(name="Walker2d-v4", env_id="Walker2d-v4")  # of another body, though its sizes were the same
    with pytest.raises(ValueError, match="made/hopper-v0: recorded in Hopper-v4, expected Walker2d-v4"):
        catalog.load(other, "minari/made/hopper-v0", tmp_path, reward_fn=None, workers=1)
    own = plain._replace(name="my-hopper", env_id="my_package:Hop-v0")
    for recorded in ("my-hopper", "Hop-v0"):
        minari.write(f"made/{recorded}-v0", EPISODES, env_id=recorded, requirements=[])
        assert catalog.load(own, f"minari/made/{recorded}-v0", tmp_path, reward_fn=None, workers=1)
    assert catalog.episodes(plain, "minari/made/hopper-v0", tmp_path) == 3
    assert catalog.episodes(plain, "minari/made/none-v0", tmp_path) == 0
    with pytest.raises(FileNotFoundError, match=r"made/none-v0: no data set.*Minari sets on disk: .*made/hopper-v0"):
        catalog.load(plain, "minari/made/none-v0", tmp_path, reward_fn=None, workers=1)


def test_a_minari_set_serves_its_own_domain_of_dm_control_only(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    states = [e._replace(extras={"physics": np.ones((e.length + 1, 4))}) for e in EPISODES]
    hopper = envs.spec("hopper_hop")._replace(observation_size=11, action_size=3)
    for number, (recorded, refused) in enumerate(
        {
            "": None,
            "hopper_stand": None,
            "dm_control/hopper-stand-v0": None,
            "Hopper-v5": True,
            "walker_run": True,
        }.items()
    ):
        minari.write(id := f"a-v{number}", states, env_id=recorded)
        if refused:
            with pytest.raises(ValueError, match=f"recorded in {recorded}, expected a task of dm_control's hopper"):
                catalog.load(hopper, f"minari/{id}", tmp_path, reward_fn=first_position, workers=1)
        else:
            found = catalog.load(hopper, f"minari/{id}", tmp_path, reward_fn=first_position, workers=1)
            assert found.trajectories[0].total == 5


def test_a_folder_of_exorl_s_format_is_not_for_gymnasium(tmp_path):
    with pytest.raises(ValueError, match="td3 is of ExoRL's format, which is for dm_control; Hopper-v4 is not"):
        catalog.load(envs.spec("Hopper-v4"), "td3", tmp_path, reward_fn=None, workers=1)
