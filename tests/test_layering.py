"""Imports point one way: data.trajectory, .scaling, .chain <- {data, agent}, and envs by itself, <- launch."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "agent": {"agent", "data.trajectory", "data.scaling", "data.chain", "jax", "numpy", "optax", "tokamax"},
    "data": {"data", "numpy", "tqdm", "h5py", "pooch", "requests", "minari"},
    "envs": {"envs", "numpy", "tqdm", "gymnasium", "dm_control", "mujoco"},
}


def imports(path: Path) -> set[str]:
    """The modules a file imports; `from data import chain` counts as data.chain."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = node.module in ("agent", "data", "envs", "launch")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if whole else {node.module}
    return found


def is_standard(module: str) -> bool:
    import sys

    return module.partition(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        for module in imports(path):
            allowed = any(module == name or module.startswith(name + ".") for name in ROOMS[room])
            assert allowed or is_standard(module), f"{path.relative_to(ROOT)} imports {module}"


def test_only_public_jax_names_are_used():
    for room in ("agent", "launch"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for module in imports(path):
                if (path.name, module) == ("aot.py", "jax.experimental"):  # topologies are found nowhere else
                    continue
                assert not module.startswith(("jax._src", "jax.lib", "jax.experimental", "jax.interpreters")), path


def test_nothing_is_ever_unpickled():
    for room in ("agent", "data", "envs", "launch"):
        for path in sorted((ROOT / room).rglob("*.py")):
            assert not imports(path) & {"pickle", "dill", "cloudpickle", "torch", "tensorflow", "gym"}, path
            assert "allow_pickle=True" not in path.read_text(), path
