"""Benches of training, data, rollouts and language: what they count is what they say they count."""

import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import envs
from agent import language
from agent.config import ModelConfig
from launch import bench, config_flags
from launch.bench import data, fullsize, lm, rollout, timing, train, watch

TINY = lm.Size(layers=1, width=16, heads=2, rows=2, context=32, updates=3, learning_rate=1e-3, contexts=(32,))


def settings(out, **changes):
    return bench.Settings(out, seed=0, repeats=1, quick=True, official="", threads=0)._replace(**changes)


def test_a_preset_is_read_as_its_file_has_it():
    lines = (config_flags.PRESETS / "cpu.flags").read_text().splitlines()
    read = config_flags.as_dict(*data.preset("cpu"))
    for line in lines:
        if line.startswith("--"):
            name, _, value = line.removeprefix("--").partition("=")
            assert str(read[name]).lower() == str(type(read[name])(value)).lower()
    assert (read["keep"], read["clip"], read["optimizer"]) == (8, 1.0, "muon")


def test_the_batches_timed_are_those_of_the_presets():
    short, chains, whole = data.presets(False, 0)
    assert str(short) == "preset cpu, short windows: 64 rows of 32 fused tokens"
    assert str(chains) == "preset cpu, chains: 4 rows of 512 fused tokens"
    assert str(whole) == "preset accelerator: 2 rows of 128,000 interleaved tokens"


def test_the_full_size_is_tried_out_in_little(tmp_path, monkeypatch):
    """In this process; the folder is gone afterwards, and the table says how the numbers hang together."""
    folders = []

    def watched(work, folder, *arguments):
        folders.append(folder)
        return work(folder, *arguments), watch.Peak(2**20, 2**22, 2**21)

    monkeypatch.setattr(fullsize, "watched", watched)
    rows = fullsize.run(settings(tmp_path))
    found = {(row["table"].partition(",")[0].partition(":")[0], row["what"]): row for row in rows}
    assert len(found) == len(rows) == 5 + 4 + 5 + 3
    first, batch = found["walker_run", "first load"], found["walker_run", "a batch"]
    assert first["steps/s"] * first["seconds"] == pytest.approx(12 * 40)
    assert (first["private MiB"], first["resident MiB"], first["largest process MiB"]) == (1, 4, 2)
    assert batch["steps/s"] * batch["seconds"] == pytest.approx(12 * 40)
    assert batch["x training"] > 0
    few, more, all_ = (found["quadruped_run", f"first load of {count}"] for count in ("2 episodes", "4 episodes", "12"))
    assert all_["seconds"] == pytest.approx(more["seconds"] + 4 * (more["seconds"] - few["seconds"]))
    assert "extrapolated" in all_["note"]
    assert not any(folder.exists() for folder in folders)


def test_what_two_cores_make_of_one_by_hand():
    """Ninety steps a second of one process, or a hundred and twenty without files."""
    rates = {fullsize.ALONE: 90.0, fullsize.REWARDS: 120.0}
    assert fullsize.efficiency(162, 2, rates) == "90% of 2 x what one process loads, 68% of 2 x rewards without files"


def test_a_line_through_two_loads_by_hand():
    """Two seconds to start, and ten episodes a second."""
    assert fullsize.line((100, 300), (12.0, 32.0), 10_000) == pytest.approx(1002)


def test_memory_of_other_processes_is_watched():
    result, peak = watch.watched(time.sleep, 0.5)
    assert result is None
    assert 0 < peak.private <= peak.resident
    assert 0 < peak.largest <= peak.resident


def test_a_data_set_for_which_there_is_no_room_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(fullsize.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    episodes = fullsize.simulate("walker_run", fullsize.QUICK, 0)
    with pytest.raises(OSError, match="GB needed for 3 episodes"):
        fullsize.write(tmp_path / "set", episodes, 3)
    assert not list(tmp_path.iterdir())


def test_batches_are_compared_with_the_time_of_an_update(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "update_seconds", lambda case, settings: (3.0, "by hand"))
    for row in data.run(settings(tmp_path)):
        assert row["x training"] == pytest.approx(1e3 * 3.0 / row["ms a batch"])
        assert row["x training"] == pytest.approx(3.0 * row["batches/s"])


def test_operations_of_an_update_by_hand():
    """Two layers of width 2, three rows of four tokens: 72 x 12 x 4 for the products, 7 x 3 x 16 x 2 for attention."""
    assert train.operations(ModelConfig(layers=2, width=2), 3, 4) == 2 * (3456 + 672)


def small_case():
    plan = data.preset("cpu")
    model = replace(plan.model, layers=1, width=16, heads=1, trajs=2, attention="vanilla")
    plan = plan._replace(model=model, optimizer=replace(plan.optimizer, optimizer="adamw"))
    return data.Case("small", plan, data.sampler(plan, data.made_up(4, 30, 0), trajs=2, keep=3, crop=5, rows=2))


def test_the_loop_timed_makes_the_updates_that_training_makes():
    case = small_case()
    looped = train.Update.of(case, case.plan.model, 0)
    plain = train.Update(looped.step, jax.tree.map(lambda array: array.copy(), looped.state))
    turn = train.looping(case, looped)
    losses = [turn() for _ in range(3)]
    assert losses == [plain.run(case.sampler.batch(step)) for step in range(3)]
    assert len(set(losses)) == 3
    for a, b in zip(jax.tree.leaves(looped.state), jax.tree.leaves(plain.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_compared_on_an_accelerator_differs_in_kernel_and_block_alone():
    """With one kernel, which a CPU has, all of them make the same update."""
    plan = data.preset("accelerator")
    model = replace(plan.model, layers=1, width=32, trajs=2, dtype="float32")
    optimizer = replace(plan.optimizer, optimizer="adamw")
    plan = plan._replace(model=model, optimizer=optimizer, rules=replace(plan.rules, draw="full"))
    case = data.Case("small", plan, data.sampler(plan, data.made_up(4, 20, 0)))
    metrics = {
        name: train.Update.of(case, replace(changed, kernel="xla"), 0).start(case.sampler.batch(0))
        for name, changed in train.kernels(model, (64, 128)).items()
    }
    plain = metrics.pop("ours, blocks of 64")
    assert set(metrics) == {"ours, blocks of 128", "cuDNN"}
    for other in metrics.values():
        assert float(other["grad_norm"]) == pytest.approx(float(plain["grad_norm"]), rel=1e-4)


def test_start_up_and_rate_of_rollouts_by_hand():
    """Three seconds of start-up, then 4,000 steps a second; a third round that something else slowed."""
    seconds = {2: [5.0, 5.0, 9.0], 6: [9.0, 9.0, 30.0]}
    row = rollout.rates(seconds, 4000)
    assert (row["steps"], row["seconds"], row["steps/s"]) == (24_000, 9.0, pytest.approx(24_000 / 9))
    assert (row["start-up s"], row["steps/s after it"]) == (pytest.approx(3), pytest.approx(4000))
    assert row["steps/s of 32 episodes"] == pytest.approx(128_000 / 35)


def test_noise_that_makes_long_chains_faster_than_short_gives_no_rate():
    row = rollout.rates({2: [5.0], 6: [4.0]}, 4000)
    assert "too noisy" in row["note"]
    assert "steps/s after it" not in row


def test_re_running_is_extrapolated_by_its_own_growth(tmp_path, monkeypatch):
    """Times that grow with tokens^1.5 and a cache that takes a hundredth of a second, whatever it holds."""
    monkeypatch.setattr(rollout, "again", lambda context, seed: ("again", context.tokens))
    monkeypatch.setattr(rollout, "cached", lambda context, seed: ("cache", context.tokens))

    def interleave(thunks, repeats):
        seconds = {name: 1e-6 * size**1.5 if kind == "again" else 0.01 for name, (kind, size) in thunks.items()}
        return {name: timing.Timing(value, value) for name, value in seconds.items()}

    monkeypatch.setattr(timing, "interleave", interleave)
    for row in rollout.cache_against_context(settings(tmp_path)):
        assert row["ms re-running"] == pytest.approx(1e-3 * row["context"] ** 1.5)
        assert row["times faster"] == pytest.approx(1e-4 * row["context"] ** 1.5)
    assert row["context"] == 4096
    assert "tokens^1.50 from 256 to 1,024" in row["note"]


def test_the_parts_of_a_step_leave_nothing_out(monkeypatch):
    """A clock that only the parts move: the first two episodes, which compile, do not count."""
    now = [0.0]
    monkeypatch.setattr(rollout, "perf_counter", lambda: now[0])

    class Policy:
        def begin(self, target_return):
            now[0] += 7

        def act(self, observations):
            now[0] += 2

        def observe(self, rewards, last):
            now[0] += 1

    watch = rollout.Watch()
    policy = watch.watch(lambda chains: Policy(), 1)
    for _ in range(4):
        policy.begin(1.0)
        for _ in range(5):
            policy.act(None)
            now[0] += 10
            policy.observe(None, False)
            watch.steps += 1
    assert watch.seconds == {"policy": 2 * (7 + 5 * 3)}
    assert watch.steps == 10
    assert now[0] - watch.begun == 2 * (7 + 5 * 13)


def test_a_row_of_noise_is_one_chain_of_equal_trajectories():
    context = rollout.Context(data.preset("accelerator").model, 512)
    row = rollout.row(context, 0)
    assert row.observations.shape == (1, 128, 24)
    np.testing.assert_array_equal(row.trajectories[0], np.repeat(np.arange(32), 4))
    np.testing.assert_array_equal(row.timesteps[0], np.tile(np.arange(4), 32))
    assert (row.chains == 1).all()


def test_text_is_drawn_from_seed_and_step_and_what_is_held_out_is_not_trained_on():
    corpus = lm.Corpus(np.arange(100, dtype=np.uint8), np.arange(200, 240, dtype=np.uint8), 2, "")
    one, again, other = (corpus.batch(0, step, 4, 8) for step in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert (np.diff(one, axis=1) == 1).all()
    np.testing.assert_array_equal(corpus.test(2, 8)[:, [0, -1]], [[200, 208], [231, 239]])


def test_the_corpus_is_the_standard_library_and_every_twentieth_file_is_held_out():
    corpus = lm.Corpus.read()
    assert corpus.files > 300
    assert 0.01 < len(corpus.heldout) / (len(corpus.train) + len(corpus.heldout)) < 0.15
    assert b"import" in corpus.train[:100_000].tobytes()


def test_three_systems_learn_the_same_and_the_table_says_by_how_much_they_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(lm, "QUICK", TINY)
    text = np.frombuffer(b"for i in range(10):\n    print(i)\n" * 50, np.uint8)
    monkeypatch.setattr(lm.Corpus, "read", classmethod(lambda cls: cls(text, text[:500], 1, "0" * 64)))
    rows = lm.run(settings(tmp_path))
    trained = rows[:3]
    assert [row["system"] for row in trained] == ["vanilla", "memory-efficient", "ours, bpt"]
    curves = np.loadtxt(tmp_path / "lm_losses.csv", delimiter=",", skiprows=1)
    assert curves.shape == (3, 4)
    for row, curve in zip(trained, curves[:, 1:].T, strict=True):
        assert (row["first loss"], row["last loss"]) == (pytest.approx(curve[0]), pytest.approx(curve[-1]))
        assert row["largest difference"] == pytest.approx(np.abs(curve - curves[:, 1]).max(), abs=1e-6)
        assert row["largest difference"] < 1e-5
        assert row["held-out bits/byte"] == pytest.approx(trained[0]["held-out bits/byte"], abs=1e-4)
    dense, ours = rows[-2:]
    assert (dense["system"], ours["system"]) == ("vanilla", "ours, bpt")
    assert "it would fit" in dense["note"]
    assert ours["last loss"] < ours["first loss"]


def test_the_dense_form_at_the_long_context_needs_more_than_there_is(monkeypatch):
    """A dense form of 8 MiB at 512 bytes that grows with their square, on a machine of 100 MiB."""

    class Compiled:
        def __init__(self, system, size, context):
            self.temp_size_in_bytes = 8 * 2**20 * (context // 512) ** 2 if system == "vanilla" else 2**20

        def memory_analysis(self):
            return self

        def __call__(self, state, text):
            return state, np.float32(text.shape[1])

    monkeypatch.setattr(lm, "compile_update", Compiled)
    monkeypatch.setattr(lm, "machine_memory", lambda: 100 * 2**20)
    corpus = lm.Corpus(np.zeros(5000, np.uint8), np.zeros(5000, np.uint8), 1, "")
    weights = language.init_language(jax.random.key(0), 16, 2, 1)
    dense, ours = lm.long_run(TINY._replace(contexts=(512,)), corpus, weights, 0, updates=2)
    assert (dense["context"], dense["memory MiB"]) == (2048, 128)
    assert "100 MiB" in dense["note"]
    assert "would fit" not in dense["note"]
    assert (ours["context"], ours["memory MiB"], ours["last loss"]) == (2048, 1, 2049)


def test_the_policy_of_the_rollout_bench_is_that_of_its_chains():
    policy = rollout.cpu_policy(0, trajs=2)(range(3))
    policy.begin(1.0)
    assert policy.act(np.zeros((3, envs.spec(rollout.ENV).observation_size), np.float32)).shape == (3, 6)
