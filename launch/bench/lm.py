"""A byte-level language model on the sources of Python's standard library, trained with all three systems at once.

The three start from the same weights and see the same batches, one update each in turn, so that their loss curves can
be laid over one another and their speeds are taken in the same minutes. Then the Blockwise Parallel form goes on alone,
at a context where the dense form does not fit, which the compiler's account of its memory says without trying.
"""

import functools
import hashlib
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from launch.bench import Plot, Row, Settings

if TYPE_CHECKING:
    from agent.language import LanguageWeights

HELP = "a small language model, trained with vanilla, memory-efficient and Blockwise Parallel layers"
PLOT = Plot(bars=("system", "context"), values=("tokens/s", "memory MiB"))

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
"""Folders of the standard library that are not it, or that distributions leave out."""
SYSTEMS = ("vanilla", "memory_efficient", "bpt")


class Size(NamedTuple):
    """The model and its training."""

    layers: int
    width: int
    heads: int
    rows: int
    context: int
    """Bytes a row."""
    updates: int
    learning_rate: float
    contexts: tuple[int, ...]
    """Whose memory is tabled; the Blockwise Parallel form goes on at the last of them, or beyond."""


DEFAULT = Size(3, 128, 2, 4, 1024, 200, 2e-3, (1024, 4096, 16_384, 32_768))
QUICK = Size(1, 32, 2, 2, 128, 8, 2e-3, (128, 512))


class Corpus(NamedTuple):
    """Bytes of files laid end to end."""

    train: np.ndarray  # [bytes] uint8
    heldout: np.ndarray
    files: int
    sha256: str

    @classmethod
    def read(cls) -> "Corpus":
        """The standard library of this Python, in order of path; every twentieth file is held out."""
        root = Path(sysconfig.get_paths()["stdlib"])
        paths = sorted(path for path in root.rglob("*.py") if not LEFT_OUT & set(path.relative_to(root).parts))
        contents = [path.read_bytes() for path in paths]
        train = b"".join(content for i, content in enumerate(contents) if i % 20 != 19)
        heldout = b"".join(contents[19::20])
        if not heldout:
            raise FileNotFoundError(
                f"{root}: expected the sources of Python's standard library, got {len(paths)} files"
            )
        digest = hashlib.sha256(train + heldout).hexdigest()
        return cls(np.frombuffer(train, np.uint8), np.frombuffer(heldout, np.uint8), len(paths), digest)

    def batch(self, seed: int, step: int, rows: int, context: int) -> np.ndarray:
        """[rows, context + 1] int32: places drawn from (seed, step) alone."""
        starts = np.random.default_rng((seed, step)).integers(0, len(self.train) - context, rows)
        return _cut(self.train, starts, context)

    def test(self, rows: int, context: int) -> np.ndarray:
        """[rows, context + 1] int32: evenly spread over what is held out."""
        return _cut(self.heldout, np.linspace(0, len(self.heldout) - context - 1, rows).astype(int), context)


def _cut(text: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    return np.stack([text[start : start + context + 1] for start in starts]).astype(np.int32)


def run(settings: Settings) -> list[Row]:
    """The tables of training, of memory by context, and of the long run."""
    size, corpus = QUICK if settings.quick else DEFAULT, Corpus.read()
    learners = train(size, corpus, settings.seed)
    curves = np.stack([np.arange(1, size.updates + 1), *(learners[system].losses for system in SYSTEMS)], axis=1)
    path = settings.out / "lm_losses.csv"
    np.savetxt(path, curves, ["%d"] + ["%.7f"] * len(SYSTEMS), ",", header=",".join(("update", *SYSTEMS)), comments="")
    rows = compare(size, corpus, learners)
    return rows + memory_by_context(size) + long_run(size, corpus, learners["bpt"].state[0], settings.seed)


def train(size: Size, corpus: Corpus, seed: int) -> dict[str, "Learner"]:
    """All systems from the same weights, one update each in turn on the same batch."""
    import jax
    from tqdm import tqdm

    from agent import language

    start = language.init_language(jax.random.key(seed), size.width, size.heads, size.layers)
    learners = {system: Learner.of(system, size, start, size.context) for system in SYSTEMS}
    for step in tqdm(range(size.updates), desc="three systems", unit="update", disable=None):
        text, turn = corpus.batch(seed, step, size.rows, size.context), step % len(SYSTEMS)
        for system in SYSTEMS[turn:] + SYSTEMS[:turn]:
            learners[system].update(text)
    return learners


def compare(size: Size, corpus: Corpus, learners: dict[str, "Learner"]) -> list[Row]:
    """What was learned, how fast, and in how much memory."""
    model = f"{size.layers} layers of width {size.width}, rotary positions"
    table = f"{size.rows} rows of {size.context:,} bytes, {model}, {size.updates} updates"
    note = f"{corpus.files} files, {len(corpus.train) + len(corpus.heldout):,} bytes, sha256 {corpus.sha256[:12]}"
    test = corpus.test(max(size.rows, 32), size.context)
    found: list[Row] = []
    for system, learner in learners.items():
        difference = np.abs(np.subtract(learner.losses, learners["vanilla"].losses))
        seconds = median(learner.seconds[1:])
        found.append(
            {
                "table": table,
                "system": named(system),
                "first loss": learner.losses[0],
                "last loss": learner.losses[-1],
                "largest difference": float(difference.max()),
                "held-out bits/byte": learner.bits(test, size.rows),
                "tokens/s": size.rows * size.context / seconds,
                "seconds": seconds,
                "memory MiB": learner.memory / 2**20,
                "memory sD": learner.memory / (size.rows * size.context * size.width * 4),
                "note": note if system == SYSTEMS[0] else None,
            }
        )
    return found


def named(system: str) -> str:
    """As the other benches call it."""
    return "ours, bpt" if system == "bpt" else system.replace("_", "-")


class Learner:
    """One system at work: its state, losses and times."""

    def __init__(self, state: Any, step: Any, bits: Callable[[Any, np.ndarray], Any]) -> None:
        """step: the update, compiled; it takes its state for good."""
        self.state, self._step, self._bits = state, step, bits
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.memory: int = step.memory_analysis().temp_size_in_bytes

    @classmethod
    def of(cls, system: str, size: Size, start: "LanguageWeights", context: int) -> "Learner":
        """At the first update, for rows of `context` bytes, as many as make up a batch, or one."""
        import jax

        rule = optimizer(size)
        state = jax.tree.map(lambda array: array.copy(), (start, rule.init(start)))
        return cls(state, compile_update(system, size, context), jax.jit(loss_of(system)))

    def update(self, text: np.ndarray) -> None:
        """One gradient update on [B, L + 1] bytes."""
        begin = time.perf_counter()
        self.state, loss = self._step(self.state, text)
        self.losses.append(float(loss))
        self.seconds.append(time.perf_counter() - begin)

    def bits(self, text: np.ndarray, rows: int) -> float:
        """Mean bits a byte of text, `rows` rows at a time."""
        parts = [self._bits(self.state[0], text[i : i + rows]) for i in range(0, len(text), rows)]
        return float(np.mean(parts) / np.log(2))


def optimizer(size: Size) -> Any:
    """AdamW, clipped, warmed up over a tenth of the updates and decayed to zero over the rest."""
    import optax

    warmup = max(1, size.updates // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, size.learning_rate, warmup, size.updates)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.01))


def loss_of(system: str) -> Callable[..., Any]:
    """(weights, text) -> nats a byte."""
    from agent import language
    from agent.stack import Form

    return lambda weights, text: language.loss(weights, text, Form(system=system, rope=True))


@functools.cache
def compile_update(system: str, size: Size, context: int) -> Any:
    """(state, text) -> (state, loss), compiled from shapes alone: nothing is allocated."""
    import jax
    import jax.numpy as jnp
    import optax

    from agent import language

    rule, loss = optimizer(size), loss_of(system)

    def update(state: Any, text: Any) -> Any:
        weights, moments = state
        value, gradient = jax.value_and_grad(loss)(weights, text)
        change, moments = rule.update(gradient, moments, weights)
        return (optax.apply_updates(weights, change), moments), value

    def start() -> Any:
        weights = language.init_language(jax.random.key(0), size.width, size.heads, size.layers)
        return weights, rule.init(weights)

    rows = max(1, size.rows * size.context // context)
    text = jax.ShapeDtypeStruct((rows, context + 1), jnp.int32)
    return jax.jit(update, donate_argnums=0).lower(jax.eval_shape(start), text).compile()


def memory_by_context(size: Size) -> list[Row]:
    """What an update of each system allocates besides weights and moments, as the compiler counts it."""
    found: list[Row] = []
    for context in size.contexts:
        unit = max(size.rows * size.context, context) * size.width * 4
        for system in SYSTEMS:
            memory = compile_update(system, size, context).memory_analysis().temp_size_in_bytes
            found.append(
                {
                    "table": "memory of an update by context",
                    "system": named(system),
                    "context": context,
                    "memory MiB": memory / 2**20,
                    "memory sD": memory / unit,
                }
            )
    return found


def long_run(size: Size, corpus: Corpus, weights: "LanguageWeights", seed: int, updates: int = 3) -> list[Row]:
    """A few updates on one row, from trained weights, at a context whose dense form needs more memory than there is."""
    memory, context = machine_memory(), size.contexts[-1]

    def needed(context: int) -> int:
        return compile_update("vanilla", size, context).memory_analysis().temp_size_in_bytes

    while size is not QUICK and needed(context) <= memory:
        context *= 2
    fits = " (it would fit: --quick)" if size is QUICK else ""
    gentle = size._replace(updates=updates, learning_rate=size.learning_rate / 10)
    learner = Learner.of("bpt", gentle, weights, context)
    text = corpus.batch(seed, 0, max(1, size.rows * size.context // context), context)
    for _ in range(updates):
        learner.update(text)
    table = f"the Blockwise Parallel form alone, {updates} updates on one batch from the weights above"
    dense = {
        "table": table,
        "system": "vanilla",
        "context": context,
        "memory MiB": needed(context) / 2**20,
        "note": f"not run: this machine has {memory / 2**20:,.0f} MiB{fits}",
    }
    ours = {
        "table": table,
        "system": named("bpt"),
        "context": context,
        "memory MiB": learner.memory / 2**20,
        "first loss": learner.losses[0],
        "last loss": learner.losses[-1],
        "tokens/s": text[:, 1:].size / median(learner.seconds),
        "seconds": median(learner.seconds),
    }
    return [dense, ours]


def machine_memory() -> int:
    """Bytes: of the accelerator, or built into this machine."""
    import os

    import jax

    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
