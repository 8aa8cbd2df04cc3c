"""What a run is said to take, against the compiler's account, and arithmetic by hand."""

from dataclasses import replace

import jax
import pytest

import envs
from agent.config import ModelConfig, OptimizerConfig
from data.chain import ChainRules
from launch import aot, devices, forecast
from launch.plan import Plan, RunConfig

WALKER = envs.spec("walker_run")


def plan(rows=1, keep=0, crop=0, accumulate=1, **model):
    return Plan(
        RunConfig(rows=rows, keep=keep, crop=crop),
        ModelConfig(**model),
        OptimizerConfig(accumulate=accumulate),
        ChainRules(),
    )


def job(steps, rows=1, **model):
    model = ModelConfig(**{"tokens": "fused", "dropout": 0.0} | model)
    return aot.Job(model, OptimizerConfig(), rows, steps, 24, 6)


@pytest.mark.parametrize(
    "of",
    [
        job(16_384),
        job(16_384, remat="minimal"),
        job(8192, width=512, heads=4, remat="input", layers=12),
        job(8192, width=512, heads=4, kv_heads=1, remat="minimal", layers=6),
        job(16_384, reversible=True, remat="minimal", layers=6),
        job(16_384, attention="memory_efficient"),
        job(4096, attention="vanilla"),
        job(16_384, dtype="bfloat16"),
        job(32, rows=64),
        job(512, rows=4, heads=2, window=256),
        job(32_000, tokens="interleaved", dropout=0.1),
    ],
    ids=lambda of: f"{of.model.attention}-{of.model.remat}-{of.rows}x{of.steps}-{of.model.dtype}",
)
def test_the_formula_is_within_a_quarter_of_the_compilers_account(of):
    assert forecast.formula(of).total == pytest.approx(aot.account(aot.compile_step(of)).total, rel=0.25)


def test_the_parts_of_the_memory_are_all_of_it():
    parts = forecast.where_memory_goes(job(2048), 2**30)
    assert sum(parts.values()) == 2**30
    # Three layers keep their input and the output of attention: 6 arrays of 2,048 x 128 float32.
    assert parts["kept by layers"] == 6 * 2048 * 128 * 4


def test_operations_by_hand():
    flops = forecast.operations(job(1000, layers=1, width=10, heads=1, remat="input"))
    # 12 E^2 weights, two operations each, a token and pass; 4 L E for scores and sums, half of them above the diagonal.
    forward, scores = 1000 * 2 * 12 * 100, 1000 * 4 * 500 * 10
    assert flops == {"matrices": 3 * forward, "attention": 3.5 * scores, "computed again": forward + scores}
    assert forecast.operations(job(1000, layers=1, width=10, heads=1))["computed again"] == forward


def test_the_largest_context_is_arithmetic_on_what_grows():
    of = plan(trajs=4, tokens="fused", dropout=0.0)
    assert forecast.job(of, WALKER).steps == 4000
    parts = {"weights and optimizer": 10.0, "batch": 1.0, "in work": 3.0}
    assert forecast.largest(of, WALKER, parts, 10 + 4 * 4.0) == 16
    assert forecast.largest(of, WALKER, parts, 10 + 4 * 4.0 - 0.1) == 15
    assert forecast.largest(of, WALKER, parts, 10.0) == 0
    # As 10 + 4 + 0.5 bytes for each of the 4,000 steps more: 16 trajectories need 6,000 bytes more.
    assert forecast.largest(of, WALKER, parts, 14 + 6000.0, slope=0.5) == 16
    assert forecast.largest(of, WALKER, parts, 14 + 5999.0, slope=0.5) == 15
    short = plan(trajs=4, keep=8, crop=264, tokens="fused")
    assert forecast.trajs_of(short, WALKER, 3 * 8 + 264) == 4
    assert forecast.trajs_of(short, WALKER, 3 * 8 + 263) == 3


def test_out_of_memory_names_the_flags_that_would_help_and_by_how_much():
    error = forecast.explained(RuntimeError("RESOURCE_EXHAUSTED: 9 GiB\nmore"), plan(), WALKER)
    assert isinstance(error, MemoryError)
    lines = str(error).splitlines()
    assert lines[0] == "out of memory: RESOURCE_EXHAUSTED: 9 GiB"
    by_flag = {line.split(":")[0].strip(): line for line in lines[2:]}
    assert {"--remat=minimal", "--remat=input", "--dtype=bfloat16", "--trajs=16", "--keep=8 --crop=264"} <= set(by_flag)
    assert "50% of the memory" in by_flag["--trajs=16"] or "51% of the memory" in by_flag["--trajs=16"]
    assert forecast.out_of_memory(MemoryError()) and not forecast.out_of_memory(RuntimeError("other"))
    halved = forecast.savings(plan(rows=2), WALKER)
    assert any(line.startswith("--accumulate=2: 5") for line in halved)


def test_a_device_that_is_not_here_gets_the_formula_and_the_table_says_so(monkeypatch):
    monkeypatch.setattr(aot, "missing", lambda device: "libtpu is not installed")
    made = forecast.forecast(plan(), WALKER, devices.find("v5e"))
    assert made.how == "formula, since libtpu is not installed"
    text = forecast.table(made)
    assert "forecast for TPU v5e" in text and "128,000 a row" in text and "fits in 16,128 MiB" in text
    assert made.trajs > 32


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"--device: expected one of h100, .*v6e, or a slice such as v5e:4x4, got 'h99'"
    ):
        devices.find("h99")
    assert devices.find("v5e:4x4").chips == 16
    assert devices.find("v5e:4x4").title == "TPU v5e, one of 16: a run uses one"
    with pytest.raises(ValueError, match="--device: expected v4 or a shape such as v4:2x2x2, got 'v4:2x2'"):
        devices.find("v4:2x2")


def test_what_the_largest_context_takes_is_what_the_compiler_says_of_it():
    of = plan(trajs=8, keep=300, crop=300, tokens="fused", dropout=0.0)
    _, memory, slope = forecast._memory(forecast.job(of, WALKER), None)
    parts = forecast.where_memory_goes(forecast.job(of, WALKER), memory.total)
    trajs = forecast.largest(of, WALKER, parts, 2**30, slope)
    longest = of._replace(model=replace(of.model, trajs=trajs))
    assert aot.account(aot.compile_step(forecast.job(longest, WALKER))).total == pytest.approx(2**30, rel=0.1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator says itself what it has")
def test_files_in_the_cache_of_a_container_are_free_memory(tmp_path, monkeypatch):
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    for name, text in (("max", "1000"), ("current", "900"), ("stat", "anon 500\ninactive_file 300\n")):
        (group / f"memory.{name}").write_text(text)
    monkeypatch.setattr(forecast, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert forecast.available() == 400
    (group / "memory.max").write_text("max\n")
    assert forecast.available() == 2**63
