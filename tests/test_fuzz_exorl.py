"""Damaged and made-up episodes: the same data or one clear error, and never more memory than the file may ask for."""

import contextlib
import io
import os
import pickle
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data import npz
from data.exorl import DTYPES, read, write
from tests.mutations import mutations

LENGTH = 20
NAME = f"episode_000000_{LENGTH}.npz"


def arrays():
    rng = np.random.default_rng(0)
    rows = LENGTH + 1
    found = {
        "observation": rng.standard_normal((rows, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "reward": rng.uniform(0, 1, (rows, 1)).astype(np.float32),
        "discount": np.ones((rows, 1), np.float32),
        "physics": rng.standard_normal((rows, 4)),
        "skill": rng.integers(0, 16, (rows, 1)),
    }
    found["action"][0] = found["reward"][0] = 0
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "buffer" / NAME
    path.parent.mkdir()
    return path


def episode(path):
    """The one episode of the folder, or the message of the error, which must be one line that names the file."""
    try:
        (found,) = read(path.parent.parent)
        return found
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error), error
        return str(error)


def assert_same(found, expected):
    assert not found.terminated
    np.testing.assert_array_equal(found.observations, expected["observation"])
    np.testing.assert_array_equal(found.actions, expected["action"][1:])
    np.testing.assert_array_equal(found.rewards, expected["reward"][1:, 0])
    assert found.extras.keys() == expected.keys() - {"observation", "action", "reward"}
    np.testing.assert_array_equal(found.extras["discount"], expected["discount"][:, 0])
    for key in ("physics", "skill"):
        np.testing.assert_array_equal(found.extras[key], expected[key])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_thousand_damaged_files_give_the_same_data_or_one_clear_error(file, save, capsys):
    save(file, **arrays())
    content = file.read_bytes()
    same = errors = 0
    for damaged in mutations(content, 1000, seed=0):
        file.write_bytes(damaged)
        if isinstance(found := episode(file), str):
            errors += 1
        else:
            assert_same(found, arrays())
            same += 1
    with capsys.disabled():
        print(f"\n{save.__name__}: {same} the same data, {errors} clear errors")
    assert same + errors == 1000
    assert 0 < same < 100  # damage outside all data, which no reader looks at


SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
ANY = st.one_of(
    hnp.arrays(hnp.scalar_dtypes(), SHAPES),
    hnp.arrays(np.dtype(object), SHAPES, elements=st.integers(), fill=st.none()),
)


@st.composite
def files(draw):
    """The arrays of an episode of two steps, most as they should be."""
    found = {}
    for key, dtype in DTYPES.items():
        elements = st.floats(-1, 1, width=32) if draw(st.integers(0, 9)) else st.floats(width=32)
        shape = (
            (3, draw(st.integers(1, 3))) if draw(st.integers(0, 9)) else draw(hnp.array_shapes(max_dims=3, max_side=4))
        )
        proper = hnp.arrays(dtype, shape, elements=elements)
        found[key] = draw(ANY if draw(st.integers(0, 19)) == 0 else proper)
    for key in draw(st.sets(st.sampled_from(["skill", "meta", "file", "a/b"]))):
        found[key] = draw(ANY if draw(st.booleans()) else hnp.arrays(hnp.scalar_dtypes(), (3, 2)))
    if draw(st.integers(0, 3)):
        for key in ("action", "reward"):
            if found[key].ndim and len(found[key]):
                found[key][0] = 0
    return found


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(files(), st.booleans())
def test_any_arrays_at_all_come_back_or_are_refused_in_one_line(tmp_path_factory, made, deflated):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "buffer" / "episode_000000_2.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for key, values in made.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, values)
    found = episode(path)
    if isinstance(found, str):
        return
    np.testing.assert_array_equal(found.observations, made["observation"])
    np.testing.assert_array_equal(found.actions, made["action"][1:])
    np.testing.assert_array_equal(found.rewards.reshape(2, -1), made["reward"][1:].reshape(2, -1))
    for key in made.keys() - {"observation", "action", "reward", "discount"}:
        assert found.extras[key].dtype == made[key].dtype
        np.testing.assert_array_equal(found.extras[key], made[key])
    again = folder / "again"
    write(again, read(folder))  # and once more through what this project writes
    (other,) = read(again)
    for key, values in found.extras.items():
        np.testing.assert_array_equal(other.extras[key], values)
    np.testing.assert_array_equal(other.rewards, found.rewards)
    np.testing.assert_array_equal(other.actions, found.actions)
    assert other.terminated == found.terminated


def with_skill(path, pieces, method=zipfile.ZIP_DEFLATED):
    """Write the valid file with these bytes as one of its arrays."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, values in arrays().items():
            with archive.open(f"{name}.npy", "w") as member:
                if name != "skill":
                    np.lib.format.write_array(member, values)
                    continue
                for piece in pieces:
                    member.write(piece)


def header(*shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


ROWS, MANY = LENGTH + 1, 2**20
BOMBS = {
    "columns": (header(ROWS, MANY), 84, "would inflate to more than 20 times its size"),
    "rows": (header(ROWS * MANY, 1), 84, r"skill has shape \(22020096, 1\), expected 20 steps"),
    "more than the header says": (header(ROWS, 1), 84, "skill has 88080512 bytes, expected 212 of shape"),
    "less than the header says": (header(ROWS, MANY), 1, "skill has 1048704 bytes, expected 88080512 of shape"),
    "a header of its own": (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", 84, "skill has npy version"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_is_inflated(file, bomb):
    head, mebibytes, message = BOMBS[bomb]
    with_skill(file, [head, *[bytes(2**20)] * mebibytes])
    with little_memory():
        assert re.search(message, episode(file))


def test_a_bomb_whose_size_the_directory_denies_is_not_inflated_either(file):
    with_skill(file, [header(ROWS, 1), *[bytes(2**20)] * 84])
    content = bytearray(file.read_bytes())
    place = content.rindex(b"PK\x01\x02")  # the last entry of the directory, 24 bytes before its size
    assert struct.unpack_from("<I", content, place + 24) == (128 + 84 * 2**20,)
    struct.pack_into("<I", content, place + 24, 128 + 4 * ROWS)
    file.write_bytes(content)
    with little_memory():
        assert "skill is not of the size and the CRC" in episode(file)


@contextlib.contextmanager
def little_memory():
    """What a file may ask for: its own size so many times, and a constant."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1.2 * npz.ALLOWANCE
    finally:
        tracemalloc.stop()


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_executed(file, tmp_path):
    trap = tmp_path / "sprung"
    pickled = pickle.dumps(Trap(trap))
    file.write_bytes(pickled)
    assert "not an npz file" in episode(file)
    with_skill(file, [pickled])
    assert "magic string is not correct" in episode(file)
    np.savez(file, **arrays() | {"skill": np.array([Trap(trap)] * ROWS)})
    assert "only pickle could read" in episode(file)
    assert not trap.exists()
    pickle.loads(pickled)
    assert trap.exists()  # it would have worked


TEXTS = ["(" * 9000, "-" * 9000 + "1", "{" * 200, "{'descr': '<f4', 'shape': (21L, 1L), ", "\\", "", "[" + "1," * 4000]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_header_that_is_no_header_is_refused(file, text):
    with_skill(file, [b"\x93NUMPY\x01\x00", struct.pack("<H", len(text)), text.encode()])
    assert "cannot be read" in episode(file)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_compress_are_refused(file, method):
    with_skill(file, [header(ROWS, 1), bytes(4 * ROWS)], method)
    assert "observation is compressed by method" in episode(file)


def test_two_arrays_of_one_name_are_refused(file):
    np.savez(file, **arrays())
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("skill.npy", b"")
    assert "two arrays of one name" in episode(file)


def test_each_byte_of_the_data_is_guarded(file):
    """Every single one, not a sample: a changed bit of an array never comes through."""
    np.savez(file, **arrays())
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo("discount.npy")
    first = content.index(b"\x93NUMPY", member.header_offset)
    for place in range(first, first + member.file_size):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "cannot be read" in episode(file)
