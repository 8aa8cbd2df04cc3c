"""What a model and its training are: frozen dataclasses, one default and one help line per number.

launch/config_flags.py turns every field into a command-line flag of the same name.
"""

from dataclasses import dataclass, field, fields
from typing import Any

TOKENS = ("interleaved", "fused")
ATTENTION = ("bpt", "memory_efficient", "vanilla")
REMATS = ("output", "input", "minimal")
KERNELS = ("auto", "xla", "cudnn", "tokamax")
DTYPES = ("float32", "bfloat16")
OPTIMIZERS = ("adamw", "muon")
BASELINES = ("bc", "bc10", "rvs", "random")
HEADS = ("deterministic", "gaussian", "mixture")
METHODS = ("at", "dt", *BASELINES)


def number(default: Any, help: str, choices: tuple[str, ...] = (), auto: bool = False) -> Any:
    """A dataclass field with its help line and, for names, what it may be. auto: its flag may also be `auto`."""
    return field(default=default, metadata={"help": help, "choices": choices, "auto": auto})


def _check(config: Any, positive: tuple[str, ...], not_negative: tuple[str, ...]) -> None:
    for f in fields(config):
        value, choices = getattr(config, f.name), f.metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"--{f.name}: expected one of {', '.join(choices)}, got {value!r}")
    for name in positive:
        if not getattr(config, name) > 0:
            raise ValueError(f"--{name}: expected a number above 0, got {getattr(config, name)}")
    for name in not_negative:
        if not getattr(config, name) >= 0:
            raise ValueError(f"--{name}: expected 0 or more, got {getattr(config, name)}")


@dataclass(frozen=True)
class ModelConfig:
    """The Agentic Transformer. Sizes default to the paper's (arXiv 2305.16554, Table 5)."""

    method: str = number(
        "at",
        "at: Agentic Transformer; dt: Decision Transformer, the same with one trajectory in context; without context, "
        "multi-layer perceptrons of --layers of --width: bc: behaviour cloning, bc10: on the best tenth of the "
        "trajectories, rvs: conditioned on the return; random: even over all actions, learns nothing.",
        METHODS,
    )
    tokens: str = number(
        "interleaved",
        "Token layout. interleaved: target return, observation, action, reward (4 tokens a step); "
        "fused: one token a step with target return, observation, previous action and reward, completion.",
        TOKENS,
    )
    attention: str = number(
        "bpt",
        "The three systems of the Blockwise Parallel Transformer paper: same numbers, other memory.",
        ATTENTION,
    )
    layers: int = number(3, "Transformer layers.")
    width: int = number(128, "Width of the residual stream.")
    heads: int = number(1, "Attention heads; must divide the width.")
    kv_heads: int = number(0, "Heads of keys and values, a divisor of --heads: less memory and cache; 0 is --heads.")
    rope: bool = number(False, "Rotary positions in the chain, beside the timestep features of every token.")
    reversible: bool = number(
        False,
        "Two residual streams that can be computed backwards: memory constant in depth; another architecture. In "
        "bfloat16 its gradients are the less exact the deeper it is.",
    )
    dropout: float = number(0.1, "Dropout on embeddings, attention, and both residual branches.")
    remat: str = number(
        "output",
        "What a bpt layer keeps for its backward pass. output: its input and the attention's output; input: its input; "
        "minimal: its input, and keys and values are computed again for every pair of blocks. Same numbers.",
        REMATS,
    )
    every: int = number(
        0,
        "Layers between kept inputs, those between are computed again; 0 is 1 for up to 8 layers, beyond that what "
        "needs least memory. A library's --kernel has 1.",
    )
    kernel: str = number(
        "auto",
        "Whose attention bpt layers use. xla: this project's; cudnn, tokamax: a library's, on GPU or TPU; auto chooses "
        "by backend and shape.",
        KERNELS,
    )
    head: str = number(
        "deterministic",
        "What is learned of an action. deterministic: the action, by squared error; gaussian: mean and spread of every "
        "dimension, by likelihood; mixture: several of these; what is most likely is played.",
        HEADS,
    )
    pack: bool = number(
        True,
        "Rows hold as many chains as fit; false: one each, from the first token on, as the kernels of libraries need.",
    )
    block: int = number(0, "Tokens per attention block; 0 chooses by the length of a row.")
    window: int = number(
        0,
        "How many of the latest steps of its own trajectory a step attends to, in training and in rollouts; 0 is all.",
    )
    trajs: int = number(
        32,
        "Trajectories in a chain, and episodes of a chain in rollouts: a step attends to its own and to the trajs - 1 "
        "before it, of methods other than at to its own; auto is the most that fit this machine and the data.",
        auto=True,
    )
    dtype: str = number("float32", "What activations are computed in; weights and statistics stay float32.", DTYPES)

    def __post_init__(self) -> None:
        _check(self, ("layers", "width", "heads", "trajs"), ("kv_heads", "every", "dropout", "block", "window"))
        if self.method == "random" and self.head != "deterministic":
            raise ValueError(f"--head: expected deterministic with --method random, got {self.head}")
        if self.width % self.heads:
            raise ValueError(f"--heads: expected a divisor of --width {self.width}, got {self.heads}")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"--kv_heads: expected a divisor of --heads {self.heads}, got {self.kv_heads}")
        if self.rope and self.width // self.heads % 2:
            raise ValueError(f"--rope: expected an even width of heads, got {self.width // self.heads}")
        if self.kernel not in ("auto", "xla") and (self.attention != "bpt" or self.reversible):
            raise ValueError(f"--kernel: expected auto or xla, but for bpt layers of one stream, got {self.kernel}")
        if self.every > 1 and (self.attention != "bpt" or self.reversible):
            raise ValueError(f"--every: expected 0 or 1, but for bpt layers of one stream, got {self.every}")
        if self.kernel not in ("auto", "xla") and (self.every > 1 or self.remat == "minimal"):
            raise ValueError(
                f"--kernel: expected auto or xla with --every above 1 or --remat minimal, which a library's attention "
                f"has not, got {self.kernel}"
            )
        if not self.dropout < 1:
            raise ValueError(f"--dropout: expected a share below 1, got {self.dropout}")

    @property
    def context(self) -> int:
        """Trajectories in a context."""
        return self.trajs if self.method == "at" else 1


@dataclass(frozen=True)
class OptimizerConfig:
    """Gradient descent: linear warm-up to the learning rate, then linear decay to zero at the last update."""

    optimizer: str = number("adamw", "adamw, or muon on matrices with adamw on everything else.", OPTIMIZERS)
    learning_rate: float = number(1e-4, "Peak learning rate.")
    weight_decay: float = number(1e-4, "Decoupled weight decay.")
    clip: float = number(0.25, "Gradients are scaled down to this global norm.")
    lr_warmup: int = number(10_000, "Updates over which the learning rate rises from 0, a tenth of all at most.")
    updates: int = number(100_000, "Gradient updates in all.")
    accumulate: int = number(
        1,
        "Every batch is worked off in this many equal parts, to fit in memory; the gradient is the same (--dropout 0).",
    )

    def __post_init__(self) -> None:
        _check(self, ("learning_rate", "clip", "updates", "accumulate"), ("weight_decay", "lr_warmup"))
