"""The table of maximum context lengths: its arithmetic by hand, and its curves against the compiler."""

import json

import pytest

from launch.bench import Settings, context, tables
from launch.bench.context import MODELS, Curve, Found, Gpt, Hardware, fixed, longest, power_of_two, temporaries, through


def test_the_sizes_of_the_papers_models_are_their_names():
    billions = {name: gpt.weights / 1e9 for name, gpt in MODELS.items()}
    assert billions == pytest.approx({"1B": 1.41, "3B": 2.78, "7B": 6.86, "13B": 13.1, "30B": 30.3, "70B": 65.3}, 0.01)


def test_a_layer_has_the_weights_that_ours_has():
    import jax

    from agent import bpt

    layer = jax.eval_shape(lambda key: bpt.init_layer(key, 64, 4, 256, 1), jax.random.key(0))
    assert sum(a.size for a in jax.tree.leaves(layer)) == Gpt(64, 1, 4).layer


def test_what_a_device_holds_by_hand():
    gpt = Gpt(width=10, layers=2, heads=1)
    # A layer has 12 * 100 + 90 = 1,290 weights; two of them, a norm of 20, and embedding and head of 504,320 each.
    assert gpt.weights == 2 * 1290 + 20 + 2 * 504_320
    head = 3 * 1024 * 50_432 * 4
    assert fixed(gpt, Hardware(1, 0, "")) == 16 * gpt.weights + head
    assert fixed(gpt, Hardware(8, 0, "")) == 2 * gpt.weights + 8 * 1290 + head


def test_curves_go_through_their_points():
    assert through(1, [(10, 107.0), (20, 207.0)]) == Curve(0.0, [(10.0, 7.0)])
    bent = through(1, [(10, 107.0), (20, 207.0), (30, 507.0)])
    assert [bent.at(length) for length in (10, 15, 20, 25, 30)] == [107.0, 157.0, 207.0, 357.0, 507.0]
    assert through(2, [(10, 230.0), (20, 860.0)]) == Curve(2.0, [(3.0, 0.0)])
    assert through(2, [(10, 107.0), (20, 207.0)]) == Curve(0.0, [(10.0, 7.0)])  # would bend down
    assert Curve(2.0, [(3.0, 5.0), (4.0, -10.0)]).at(10) == 235.0


def test_the_longest_context_fills_the_device_and_not_more():
    gpt = Gpt(width=10, layers=2, heads=1)
    curve = Curve(0.0, [(20.0, 1000.0)])
    # 20 bytes a token of the stack and 80 of two arrays [L, 10]: 7 steps of 1,024 tokens need 716,800.
    room = int(fixed(gpt, Hardware(1, 0, "")) + 1000 + 716_800)
    assert longest(gpt, Hardware(1, room, ""), [curve]) == 7 * 1024
    assert longest(gpt, Hardware(1, room - 1, ""), [curve]) == 6 * 1024
    assert longest(gpt, Hardware(1, 1000, ""), [curve]) == 0
    assert (
        longest(gpt, Hardware(1, room - 1, ""), [curve, Curve(0.0, [(20.0, 0.0)])]) == 7 * 1024
    )  # the better one counts
    assert [power_of_two(n) for n in (0, 1024, 7 * 1024, 8192)] == [0, 1024, 4096, 8192]


def test_curves_foresee_what_the_compiler_says_of_longer_rows(monkeypatch):
    monkeypatch.setattr(context, "CHUNKS", (512,))
    gpt = Gpt(width=64, layers=10, heads=2)
    for system in context.systems():
        points = [(length, temporaries(system.stack, gpt, length)) for length in (16_384, 32_768)]
        truth = temporaries(system.stack, gpt, 65_536)
        assert through(system.power, points).at(65_536) == pytest.approx(truth, rel=0.05), system.name


def test_the_rivals_compute_what_ours_computes(monkeypatch):
    import jax
    import jax.numpy as jnp

    from agent import bpt
    from agent.attention import Visibility

    monkeypatch.setattr(context, "CHUNKS", (16,))
    init = jax.vmap(lambda key: bpt.init_layer(key, 16, 2, 64, 3))
    weights = init(jax.random.split(jax.random.key(0), 3))
    x = jax.random.normal(jax.random.key(1), (1, 64, 16))
    where = Visibility(jnp.ones((1, 64), jnp.int32), jnp.zeros((1, 64), jnp.int32))
    results = {system.name: system.stack(weights, x, where) for system in context.systems()}
    del results["reversible"]  # another architecture
    for name, y in results.items():
        assert jnp.allclose(y, results["vanilla"], atol=1e-5), name


def found(model: str) -> Found:
    """Ours linear in the context, the rivals ten times as steep."""
    curves = {system.name: [Curve(0.0, [(1e5, 0.0)])] for system in context.systems()}
    return Found(model, curves | {rival: [Curve(0.0, [(1e6, 0.0)])] for rival in context.RIVALS}, 0.01)


def test_a_child_process_hands_over_what_it_found(monkeypatch, capsys):
    monkeypatch.setattr(context, "survey", lambda models, sharding: iter([found("1B")]))
    from launch import aot

    monkeypatch.setattr(aot, "target", lambda device: None)
    monkeypatch.setattr("jax.sharding.SingleDeviceSharding", lambda device: None)
    context.main(["1B"])
    model, curves, error = json.loads(capsys.readouterr().out)
    assert json.dumps(found("1B")) == json.dumps([model, curves, error])


def test_a_child_process_that_fails_says_why(monkeypatch):
    with pytest.raises(RuntimeError, match=r"compiling for h100 failed: (NotImplementedError|KeyError)"):
        list(context.survey_elsewhere(["no such model"]))


def test_the_table_has_ours_beside_the_published_and_says_who_confirms_them(monkeypatch, tmp_path):
    from launch import aot

    monkeypatch.setattr(aot, "missing", lambda device: "not installed")
    monkeypatch.setattr(context, "survey", lambda models: (found(model) for model in models))
    rows = context.run(Settings(tmp_path, 0, 1, False, "", 0))
    assert len(rows) == 2 * len(context.TABLE)
    text = tables.text(rows)
    assert "from memory, not confirmed" in text and "arXiv 2310.01889, Table 3" in text
    first = next(row for row in rows if row.get("x vanilla"))
    assert first["account"] == "compiled for cpu" and first["x vanilla"] > 5
    # 70B on devices of 32 GB: the weights leave too little for rows, of the rivals none at all.
    last = rows[-1]
    assert last["model"] == "70B" and last["weights %"] > 70
