from dataclasses import dataclass

import pytest
from absl import flags

from agent.config import ModelConfig, OptimizerConfig, number
from launch import config_flags


@dataclass(frozen=True)
class Wishes:
    some_count: int = number(3, "A count.")
    some_share: float = number(0.5, "A share.")
    some_switch: bool = number(True, "A switch.")
    some_name: str = number("a", "A name.", ("a", "b"))


@pytest.fixture(scope="module")
def parsed():
    config_flags.define(Wishes)
    flags.FLAGS(["program", "--some_count=7", "--nosome_switch"])
    return flags.FLAGS


def test_flags_become_the_dataclass_and_presets_yield_to_what_was_typed(parsed):
    assert config_flags.read(Wishes) == Wishes(some_count=7, some_switch=False)
    config_flags.fill({"some_count": "1", "some_share": "0.25", "some_name": "b"}, config_flags.typed())
    assert config_flags.read(Wishes) == Wishes(7, 0.25, False, "b")


def test_every_flag_shows_its_default_and_help(parsed):
    text = parsed.get_help()
    for line in ("A count.", "(default: '3')", "A switch.", "(default: 'true')", "A name."):
        assert line in text


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="accelerator, baseline, cpu"):
        config_flags.read_preset("tpu")


def test_a_run_that_goes_on_must_keep_its_flags():
    assert config_flags.changed({"a": 1, "b": 2}, {"a": 1, "b": 3}, ["a", "b"]) == [
        "--b: expected 2 as in the stored run, got 3"
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ModelConfig(width=10, heads=3), "--heads: expected a divisor of --width 10, got 3"),
        (lambda: ModelConfig(tokens="words"), "--tokens: expected one of interleaved, fused, got 'words'"),
        (lambda: ModelConfig(heads=4, kv_heads=3), "--kv_heads: expected a divisor of --heads 4, got 3"),
        (lambda: ModelConfig(width=6, heads=2, rope=True), "--rope: expected an even width of heads, got 3"),
        (lambda: ModelConfig(kernel="cudnn", reversible=True), "--kernel: expected auto or xla, but for bpt layers"),
        (lambda: ModelConfig(every=2, attention="vanilla"), "--every: expected 0 or 1, but for bpt layers"),
        (lambda: ModelConfig(every=-1), "--every: expected 0 or more, got -1"),
        (lambda: ModelConfig(window=-1), "--window: expected 0 or more, got -1"),
        (lambda: OptimizerConfig(updates=0), "--updates: expected a number above 0, got 0"),
    ],
)
def test_a_wrong_number_is_named_with_what_was_expected(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_number_that_may_be_auto_takes_both_and_nothing_else():
    parser = config_flags.IntegerOrAuto()
    assert parser.parse("auto") == config_flags.AUTO and parser.parse("8") == 8
    with pytest.raises(ValueError, match="expected a positive integer or auto, got 1,4"):
        parser.parse("1,4")
    for wrong in ("0", "-1", "many"):
        with pytest.raises(ValueError):
            parser.parse(wrong)
