"""Damaged D4RL files: the same trajectories or one clear error, and the process that asks for them lives on.

What can be known: our own files have checksums of everything that is read of them. D4RL's have them of the numbers
(zlib's) but not of their description, where the checks of data.hdf5_reader stand in. Numbers stored plain have none: a
changed bit in them is another valid file, which only a hash known beforehand tells apart. Of plain files no more is
asked than an answer.
"""

import collections
import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mutations import mutations
from test_d4rl import EPISODES, arrays_of, episode, write_plainly

from data import d4rl, hdf5

COUNT, SEED = 250, 0


def load(path):
    return d4rl.load(path, name="hopper-medium-v2", observation_size=3, action_size=2, episode_length=70)


def write(kind, path):
    """Three small episodes, as `kind` writes them."""
    episodes = [episode(50, True, 0), episode(70, False, 1), episode(1, True, 2)]
    if kind == "ours":
        d4rl.write(path, episodes)
    else:
        write_plainly(path, arrays_of(episodes), compression="gzip" if kind == "d4rl" else None)
    return path


def outcome(path, expected):
    """Of loading a file that may be damaged: what it gave, beside the hash expected."""
    try:
        return "same" if load(path).sha256 == expected else "changed"
    except ValueError as error:
        return "error" if str(error).startswith(f"{path}: ") and "\n" not in str(error) else f"unclear: {error}"


@pytest.mark.parametrize("kind", ["ours", "d4rl", "plain"])
def test_damaged_files_give_the_same_or_one_clear_error(kind, tmp_path):
    path = write(kind, tmp_path / "damaged.hdf5")
    expected, content = load(path).sha256, path.read_bytes()
    found = collections.defaultdict(list)
    for number, damaged in enumerate(mutations(content, COUNT, SEED)):
        path.write_bytes(damaged)
        found[outcome(path, expected)].append(number)
    counts = {key: len(numbers) for key, numbers in found.items()}
    assert counts.keys() <= {"same", "error", "changed"} and sum(counts.values()) == COUNT, counts
    assert counts["same"] > 0 and counts["error"] > COUNT // 2
    assert kind == "plain" or "changed" not in found, found["changed"]


@pytest.mark.parametrize(
    ("sort", "words"),
    [(signal.SIGSEGV, "failed with code -11"), (signal.SIGALRM, "took too long")],
    ids=["crash", "hang"],
)
def test_when_hdf5_dies_the_file_is_named_and_others_can_be_read(sort, words, tmp_path):
    path, other = (write("ours", tmp_path / name) for name in ("deadly.hdf5", "other.hdf5"))
    with hdf5.Source(path) as source, hdf5.Source(other) as untouched:
        server = source._reader._process.pid
        children = Path(f"/proc/{server}/task/{server}/children")
        if not children.exists():
            pytest.skip("cannot tell which process reads the file")
        os.kill(int(children.read_text()), sort)
        with pytest.raises(ValueError, match=rf"^{path}: cannot be read \(HDF5 {words}\)"):
            source.names("infos")
        with pytest.raises(ValueError, match=f"^{path}: cannot be read any more"):
            source.names("infos")
        assert untouched.column("rewards").shape == (121,)
    assert load(path).sha256 == load(other).sha256


def test_a_checksum_tells_a_changed_bit_of_our_own_files(tmp_path):
    """A hundred bytes of rewards, one bit each: none gives other trajectories. Planted: plain files do."""
    for kind in ("ours", "plain"):
        path = write(kind, tmp_path / f"{kind}.hdf5")
        expected, content, outcomes = load(path).sha256, bytearray(path.read_bytes()), set()
        with h5py.File(path) as file:
            rewards = file["rewards"].id
            first = rewards.get_chunk_info(0).byte_offset if kind == "ours" else rewards.get_offset()
        for place in range(first, first + 100):
            content[place] ^= 1
            path.write_bytes(content)
            outcomes.add(outcome(path, expected))
            content[place] ^= 1
        assert outcomes == {"error"} if kind == "ours" else "changed" in outcomes


NUMBERS = {
    "observations": (3,),
    "next_observations": (3,),
    "actions": (2,),
    "rewards": (),
    "terminals": (),
    "timeouts": (),
}


@st.composite
def files(draw):
    """Arrays of a file: D4RL's, of which some are other than they should be."""
    made = arrays_of(EPISODES)
    for key, columns in NUMBERS.items():
        match draw(st.sampled_from(["well"] * 9 + ["gone", "values", "shape", "dtype"])):
            case "gone":
                del made[key]
            case "values":
                made[key] = draw(arrays.arrays(made[key].dtype, (12, *columns)))
            case "shape":
                made[key] = draw(arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=3, max_side=13)))
            case "dtype":
                kinds = [np.float16, np.float64, np.int8, np.uint64, np.complex64, bool, "S3", ">f8"]
                made[key] = draw(arrays.arrays(draw(st.sampled_from(kinds)), (12, *columns)))
    return made


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files())
def test_made_up_files_give_trajectories_or_one_clear_error(tmp_path, made):
    path = tmp_path / "made_up.hdf5"
    with h5py.File(path, "w") as file:
        for key, values in made.items():
            file[key] = values
    try:
        found = load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return
    rows = np.concatenate([made["terminals"].ravel(), made.get("timeouts", np.zeros(0)).ravel()])
    assert np.isin(rows, (0, 1)).all()
    steps = sum(len(trajectory.rewards) for trajectory in found.trajectories)
    assert 0 < steps <= len(made["actions"])
    for trajectory in found.trajectories:
        assert trajectory.observations.shape[1] == 3 and trajectory.actions.shape[1] == 2
        assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in trajectory)
        assert np.abs(trajectory.actions).max() <= 1
    if steps == len(made["actions"]):
        np.testing.assert_array_equal(
            np.concatenate([trajectory.rewards for trajectory in found.trajectories]),
            made["rewards"].ravel().astype(np.float32),
        )
