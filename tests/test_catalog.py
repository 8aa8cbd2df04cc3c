"""Data sets by name: what is found, what is said of the absent, what the card holds."""

from pathlib import Path

import numpy as np
import pytest

from data import catalog
from data.exorl import Sizes, write_episode
from launch import datasets

SIZES = Sizes(observation=3, action=2, physics=4)


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


def load(data_dir, domain="walker", dataset="td3"):
    return catalog.load("walker_run", domain, dataset, data_dir, sizes=SIZES, reward_fn=first_position, workers=1)


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


def test_on_disk_lists_folders_with_episodes_only(tmp_path):
    assert catalog.on_disk(tmp_path / "absent") == []
    add(tmp_path, "walker", "rnd", [1, 2])
    add(tmp_path, "cheetah", "td3", [1])
    (tmp_path / "walker" / "proto" / "buffer").mkdir(parents=True)
    load(tmp_path, dataset="rnd")  # leaves a cache, which is not counted
    found = catalog.on_disk(tmp_path)
    assert [(f.domain, f.dataset, f.episodes) for f in found] == [("cheetah", "td3", 1), ("walker", "rnd", 2)]
    assert found[1].bytes == sum(path.stat().st_size for path in tmp_path.glob("walker/rnd/buffer/*"))


def test_td3_serves_when_none_is_named_then_the_alphabet(tmp_path):
    assert catalog.choose("walker", None, tmp_path) is None
    assert catalog.choose("walker", "proto", tmp_path) == "proto"
    add(tmp_path, "cheetah", "aps", [1])
    assert catalog.choose("walker", None, tmp_path) is None
    add(tmp_path, "walker", "rnd", [1])
    add(tmp_path, "walker", "icm", [1])
    assert catalog.choose("walker", None, tmp_path) == "icm"
    add(tmp_path, "walker", "td3", [1])
    assert catalog.choose("walker", None, tmp_path) == "td3"


def test_an_absent_data_set_says_how_to_get_it_and_what_there_is(tmp_path):
    add(tmp_path, "walker", "td3", [1])
    with pytest.raises(FileNotFoundError) as raised:
        load(tmp_path, dataset="rnd")
    message, folder = str(raised.value), tmp_path / "walker" / "rnd"
    assert "\n" not in message and message.startswith(f"{folder}: no data set, ")
    assert "python -m launch.collect --env walker_run --agent rnd" in message
    assert f"unzip https://dl.fbaipublicfiles.com/exorl/walker/rnd.zip into {folder}" in message
    assert message.endswith("walker/td3")


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


def test_the_listing_shows_where_how_many_and_how_big(tmp_path):
    add(tmp_path, "walker", "td3", [1, 2])
    lines = list(datasets.table(tmp_path))
    (row,) = [line for line in lines if "walker" in line and "td3" in line and "collect" not in line]
    assert "2 episodes" in row and "kB" in row and row.endswith(str(tmp_path / "walker" / "td3"))
    assert any("walker/DATASET.zip" in line and "proto 2.6 GB, rnd 2.6 GB" in line for line in lines)
    assert "nothing yet" in next(datasets.table(Path("absent")))
