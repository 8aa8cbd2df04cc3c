"""What the papers published of maximum context lengths: models, machines, the table (arXiv 2305.19370, 2310.01889)."""

from typing import NamedTuple

VOCABULARY = 50_432
"""Words of the models."""


class Gpt(NamedTuple):
    """A model of the paper's code; its feed-forward layer is 4 E wide."""

    width: int
    layers: int
    heads: int

    @property
    def layer(self) -> int:
        """Weights of one layer: four E x E and two E x 4E matrices, biases and norms."""
        return 12 * self.width**2 + 9 * self.width

    @property
    def weights(self) -> int:
        """All of them: layers, the last norm, embedding and head."""
        return self.layers * self.layer + 2 * self.width + 2 * VOCABULARY * self.width


MODELS = {
    "1B": Gpt(2048, 24, 16),
    "3B": Gpt(2560, 32, 32),
    "7B": Gpt(4096, 32, 32),
    "13B": Gpt(5120, 40, 40),
    "30B": Gpt(7168, 48, 56),
    "70B": Gpt(8192, 80, 64),
}


class Hardware(NamedTuple):
    """Devices of one kind."""

    devices: int
    memory: int
    """Bytes of each."""
    title: str


class Published(NamedTuple):
    """Thousands of tokens (x 1024): vanilla, memory-efficient attention, BPT."""

    vanilla: int
    memory_efficient: int
    bpt: int
    source: str


A100 = 80 * 10**9
ONE, EIGHT, MANY, POD = (
    Hardware(1, A100, "1 x 80 GB"),
    Hardware(8, A100, "8 x 80 GB"),
    Hardware(32, A100, "32 x 80 GB"),
    Hardware(64, 32 * 10**9, "64 x 32 GB"),
)
RING, RECALLED = "arXiv 2310.01889, Table 3", "arXiv 2305.19370, Table 1, from memory, not confirmed"
TABLE: dict[tuple[Hardware, str], Published | None] = {
    (ONE, "1B"): Published(16, 64, 128, RECALLED),
    (ONE, "3B"): Published(8, 16, 64, RECALLED),
    (EIGHT, "1B"): None,
    (EIGHT, "3B"): Published(4, 32, 64, RING),
    (EIGHT, "7B"): Published(2, 16, 32, RING),
    (EIGHT, "13B"): Published(2, 4, 16, RING),
    (EIGHT, "30B"): Published(8, 16, 64, RECALLED),
    (MANY, "7B"): Published(4, 64, 128, RING),
    (MANY, "13B"): Published(4, 32, 64, RING),
    (MANY, "30B"): None,
    (MANY, "70B"): None,
    (POD, "13B"): Published(4, 16, 32, RECALLED),
    (POD, "30B"): Published(2, 4, 16, RECALLED),
    (POD, "70B"): Published(1, 2, 8, RECALLED),
}
