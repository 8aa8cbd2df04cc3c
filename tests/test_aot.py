"""The paper's train step at 128,000 tokens, compiled for machines that are not here, with the extra `aot`."""

from dataclasses import replace

import pytest

from agent.config import ModelConfig, OptimizerConfig
from launch import aot, devices

FULL = aot.Job(
    ModelConfig(tokens="interleaved", layers=3, width=128, heads=1, trajs=32, dropout=0.1, dtype="bfloat16"),
    OptimizerConfig(),
    rows=1,
    steps=32_000,
    observation_size=24,
    action_size=6,
)


@pytest.mark.parametrize("name", ["v5e", "v4", "h100"])
def test_the_train_step_at_128_000_tokens_fits_one_device(name):
    device = devices.find(name)
    if why := aot.missing(device):
        pytest.skip(why)
    ((steps, memory),) = aot.compile_train_step(FULL, device)
    # Measured with jax 0.10.2: 527 MiB for v5e, 673 for v4, 449 for h100.
    assert steps == 32_000 and not memory.refused
    assert memory.temporaries > 0 and memory.total < device.memory


def test_cudnns_attention_takes_its_place_in_the_train_step_for_an_h100():
    device = devices.find("h100")
    if why := aot.missing(device):
        pytest.skip(why)
    model = replace(FULL.model, dropout=0.0, pack=False, kernel="cudnn")
    ((_, memory),) = aot.compile_train_step(FULL._replace(model=model), device)
    # Measured with jax 0.10.2: 833 MiB.
    assert not memory.refused and memory.total < 2**30


def test_a_machine_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"libtpu is not installed \(pip install 'agentic-bpt\[aot\]'\)"):
        aot.compile_train_step(FULL, devices.find("v5e"))


def test_the_target_of_a_gpu_is_its_data_sheet():
    text = aot.target_config(devices.find("h100"))
    assert "core_count: 132" in text and "cuda_compute_capability { major: 9 minor: 0 }" in text
    with pytest.raises(ValueError, match="device: expected an NVIDIA GPU, got v4"):
        aot.target_config(devices.find("v4"))
