"""Benchmarks: fair turns, tables that say where they come from, and rivals that compute the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent.stack import Form
from launch import bench
from launch.bench import attention, layer, memory, peers, tables, timing

ROOT = Path(__file__).parent.parent


def settings(out, **changes):
    return bench.Settings(out, seed=0, repeats=1, quick=True, official="", threads=0)._replace(**changes)


class Clock:
    """A clock that only work moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds, log, name):
        turns = iter(seconds)

        def thunk():
            log.append(name)
            self.now += next(turns)

        return thunk


def test_rivals_take_turns_in_rotating_order_and_the_warm_up_does_not_count():
    clock, log = Clock(), []
    thunks = {"a": clock.work([100, 3, 1, 2, 9], log, "a"), "b": clock.work([100, 5, 7, 6, 6], log, "b")}
    found = timing.interleave(thunks, 4, clock=clock)
    assert "".join(log) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert found["a"] == timing.Timing(2.5, 1)
    assert found["b"] == timing.Timing(6, 5)


def test_the_yardstick_is_timed_in_the_same_rounds_and_is_no_rival(monkeypatch):
    clock, log = Clock(), []
    monkeypatch.setattr(timing, "gemm", lambda quick: (clock.work([9, 2, 4], log, "GEMM"), 12.0))
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    monkeypatch.setattr(timing.interleave, "__kwdefaults__", {"label": "", "clock": clock})
    found, peak = timing.against_gemm({"a": clock.work([1, 1, 1], log, "a")}, 2, quick=True)
    assert (list(found), peak) == (["a"], 4.0)
    assert log == ["a", "GEMM", "a", "GEMM", "GEMM", "a"]


def test_useful_work_is_counted_as_the_formula_says():
    # By hand, T = 2, E = 3: 72 * 2 * 9 for the products with parameters, 7 * 4 * 3 for attention; three layers.
    assert layer.Shape(1, 2, 3, 1, 3).flops == 3 * (1296 + 84)
    assert attention.Heads(4, 2, 8).flops(attention.FORWARD) == 4 * 8 * 16
    assert attention.Heads(4, 2, 8).flops(attention.BOTH) == 14 * 8 * 16


def test_an_unknown_bench_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"expected one or more of memory, layer, .*, lm, all; got flash"):
        bench.choose(["memory", "flash"])
    with pytest.raises(ValueError, match="got none"):
        bench.choose([])
    assert bench.choose(["layer", "memory", "layer"]) == ["layer", "memory"]
    assert bench.choose(["layer", "all"]) == list(bench.BENCHES)


def test_every_bench_has_what_the_program_asks_of_it():
    for name in bench.BENCHES:
        module = bench.load(name)
        assert module.HELP and callable(module.run)


def test_a_table_aligns_numbers_and_shows_only_columns_it_has():
    rows = [
        {"table": "one", "system": "ours", "seconds": 0.01234, "tokens": 12345, "spare": None},
        {"table": "one", "system": "a rival", "note": "skipped"},
        {"table": "two", "system": "ours", "temp": 7.0},
    ]
    assert tables.text(rows).split("\n") == [
        "one",
        "  system   seconds  tokens  note",
        "  ours      0.0123  12,345",
        "  a rival                   skipped",
        "",
        "two",
        "  system  temp",
        "  ours    7.00",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1,234"), (12.34, "12.3"), (1.0, "1.00"), (0.5, "0.500"), (0, "0"), (True, "yes"), (None, "")],
)
def test_numbers_have_three_digits(value, shown):
    assert tables.cell(value) == shown


def test_results_say_where_they_come_from(tmp_path):
    rows = [{"system": "ours", "seconds": 0.5}, {"system": "torch", "note": "skipped"}]
    written = tables.save("layer", rows, settings(tmp_path), bench.Plot(("system",), ("seconds",)), load=0.25)
    assert [path.name for path in written] == ["layer.json", "layer.png"]
    stored = json.loads(written[0].read_text())
    assert stored["rows"] == rows
    assert stored["settings"]["seed"] == 0
    assert {"command", "commit", "versions", "time", "load"} <= stored.keys()
    assert stored["machine"]["backend"] == "cpu"
    assert stored["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert stored["machine"]["device"] and "torch" in stored["machine"]["peers"]
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_makes_no_plot(tmp_path):
    written = tables.save("lm", [{"system": "torch", "note": "skipped"}], settings(tmp_path), None, 0.0)
    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in written] == ["lm.json"]


@pytest.mark.parametrize(
    ("size", "budget", "expected"),
    [
        (lambda n: 100 + 3 * n, 100 + 3 * 5000, 4096),
        (lambda n: 100 + 3 * n, 100 + 3 * 4096, 4096),
        (lambda n: 7 * n + n * n, 7 * 99_000 + 99_000**2, 96 * 1024),
        (lambda n: 5 * n + 10**6, 10**6, 0),
        (lambda n: -(-n // 8192) * 8192, 10**6, 122 * 8192),
    ],
)
def test_the_longest_context_is_the_last_that_fits(size, budget, expected):
    asked = []

    def ask(length):
        asked.append(length)
        return size(length)

    known = {}
    assert memory.longest(ask, budget, 1024, known) == expected
    assert memory.longest(ask, budget, 1024, known) == expected
    assert len(asked) == len(set(asked)) <= 16


def step_of(function, arguments):
    """y, the gradient in x and those of the weights, of the loss mean(y^2)."""
    loss, (d_weights, d_x) = layer.compile_step(function, arguments)(*arguments)
    return {"loss": loss, "d_x": d_x} | d_weights._asdict()


def assert_same(got, expected):
    for name, array in expected.items():
        error = np.abs(np.asarray(got[name]) - array).max() / np.abs(array).max()
        assert error < 1e-5, f"{name}: {error:.1e}"


def rough(shape):
    """Arguments of a step with nothing at its initial 0 or 1."""
    weights, x, where = layer.init(shape, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + jnp.asarray(0.1 * rng.normal(size=a.shape), jnp.float32), weights), x, where


@pytest.mark.parametrize("layers", [1, 2])
def test_bpt_as_published_computes_our_numbers_whatever_its_chunk(layers):
    shape = layer.Shape(2, 24, 16, 2, layers)
    arguments = rough(shape)
    expected = step_of(layer.ours(Form(system="vanilla")), arguments)
    for chunk in (8, 24):
        assert_same(step_of(layer.published(chunk, layers), arguments), expected)
    assert_same(step_of(layer.ours(Form(remat="input", block=8)), arguments), expected)


def test_bpt_as_published_refuses_a_chunk_that_does_not_divide_the_row():
    with pytest.raises(ValueError, match="chunk: expected a divisor of the 24 tokens, got 7"):
        layer.published(7, 1)(*layer.init(layer.Shape(1, 24, 16, 2), jax.random.key(0)))


@pytest.mark.parametrize("kv_heads", [0, 1])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_torch_layer_computes_our_numbers(kv_heads, checkpoint):
    pytest.importorskip("torch")
    shape = layer.Shape(2, 24, 16, 2, 2, kv_heads)
    arguments = rough(shape)
    expected = step_of(layer.ours(Form(system="vanilla")), arguments)
    found = peers.torch_stack(arguments[0], arguments[1], checkpoint=checkpoint, threads=0)()
    got = {"loss": found.loss.numpy(), "d_x": found.x.numpy()}
    for name, array in arguments[0]._asdict().items():
        gradients = [getattr(one, name).numpy().T.reshape(array.shape[1:]) for one in found.weights]
        got[name] = np.stack(gradients)
    assert_same(got, expected)


def test_torch_attention_computes_our_numbers():
    torch = pytest.importorskip("torch")
    q, k, v = attention.inputs(attention.Heads(24, 2, 8), "float32", 0)
    forward, both = peers.torch_attention(q, k, v, 0)
    ours = attention.ours(8)
    np.testing.assert_allclose(forward().numpy().swapaxes(1, 2), ours(q, k, v), atol=1e-5)
    expected = jax.grad(lambda *xs: (ours(*xs) ** 2).mean(), (0, 1, 2))(q, k, v)
    for got, array in zip(both(), expected, strict=True):
        assert isinstance(got, torch.Tensor)
        np.testing.assert_allclose(got.numpy().swapaxes(1, 2), array, atol=1e-6)


def test_absent_rivals_are_left_out_with_a_word(monkeypatch):
    for package in ("torch", "transformers", "flax"):
        monkeypatch.setitem(sys.modules, package, None)
    arguments = layer.init(layer.Shape(1, 8, 16, 2), jax.random.key(0))
    calls = {
        "torch": lambda: peers.torch_stack(*arguments[:2], checkpoint=False, threads=0),
        "flax": lambda: peers.official_layer("anywhere", 8, 16, 2, 8),
    }
    contenders, absent = layer.build(calls)
    assert not contenders
    for name, why in absent.items():
        assert why == f"skipped: {name} is not installed; pip install 'agentic-bpt[bench]'"
    with pytest.raises(peers.AbsentError, match="--official names no folder"):
        peers.official_layer("", 8, 16, 2, 8)


def test_ratios_are_of_the_same_table_and_rivals_without_time_are_none(monkeypatch):
    seconds = {"ours, output": 2.0, "torch": 3.0, "published BPT, chunk 8": 10.0, "published BPT, chunk 4": 5.0}

    def timed(thunks, repeats, quick, label):
        return {name: timing.Timing(seconds[name], seconds[name]) for name in thunks}, 1e3

    monkeypatch.setattr(timing, "against_gemm", timed)
    builders = {name: lambda: layer.Contender(lambda: None, 2048) for name in seconds}
    shape = layer.Shape(1, 8, 16, 2)
    row, *_, gemm = layer.compare(shape, builders, settings(Path()))
    assert gemm["system"] == "GEMM"
    assert (row["tokens/s"], row["x torch"], row["x published"], row["temp sD"]) == (4.0, 1.5, 5.0, 4.0)
    assert row["x checkpoint"] is row["x official"] is None
    assert row["of GEMM"] == shape.flops / 2000


@pytest.fixture(scope="module")
def memory_bench(tmp_path_factory):
    """The program itself, on small shapes, pinned to one core."""
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "launch.bench", "memory", "--quick", "--threads=1", f"--out={out}"]
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "memory.json").read_text()), out


def test_the_memory_bench_runs_end_to_end(memory_bench):
    shown, stored, out = memory_bench
    assert (out / "memory.png").is_file()
    assert "memory.json" in shown and "temp sD" in shown
    assert stored["machine"]["cores"] == stored["settings"]["threads"] == 1
    assert stored["command"].startswith("python -m launch.bench memory --quick")
    account, rise, fits = tables.sections(stored["rows"]).values()
    temporary = {row["system"]: row["temp sD"] for row in account}
    assert list(temporary) == ["published BPT, chunk 64", "ours, input", "ours, reversible"]
    assert all(5 < sd < 50 for sd in temporary.values())
    assert all(row["rise MiB"] > 0 for row in rise)
    tokens = {row["system"]: row["0.03125 GiB"] for row in fits}
    assert tokens["ours, input"] > tokens["published BPT, chunk 64"] > 0


def test_a_word_that_is_no_bench_ends_in_one_line():
    command = [sys.executable, "-m", "launch.bench", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: bench: expected one or more of memory, layer,")
    assert done.stderr.count("\n") == 1


def test_more_cores_than_there_are_is_refused_and_so_is_a_folder_without_the_official_code(tmp_path):
    for flag, message in (
        ("--threads=4096", "--threads: expected at most the"),
        (f"--official={tmp_path}", "--official: expected a folder that holds the package bpt"),
    ):
        command = [sys.executable, "-m", "launch.bench", "memory", flag, f"--out={tmp_path}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr[: len("error: ") + len(message)]) == (1, f"error: {message}")
