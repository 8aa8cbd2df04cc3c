"""Dataclasses <-> absl flags: every field is a flag of the same name, its default and help written once.

A preset is a file of flags. What a person types wins over the preset, and the preset over the defaults.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

PRESETS = Path(__file__).parent / "presets"
Config = TypeVar("Config")


AUTO = 0
"""What a flag that says `auto` holds until the program has chosen."""


class IntegerOrAuto(flags.IntegerParser):
    """An integer above 0, or `auto`."""

    syntactic_help = "a positive integer or auto"

    def __init__(self) -> None:
        super().__init__(lower_bound=1)

    def parse(self, argument: str | int) -> int:
        if argument == "auto":
            return AUTO
        try:
            return super().parse(argument)
        except ValueError:
            raise ValueError(f"expected a positive integer or auto, got {argument}") from None


def define(config: type) -> None:
    """Define one flag per field of a dataclass of bool, int, float and str fields."""
    for f in dataclasses.fields(config):
        default: Any = f.default
        text, choices = f.metadata["help"], f.metadata.get("choices")
        if f.metadata.get("auto"):
            flags.DEFINE(IntegerOrAuto(), f.name, default, text, serializer=flags.ArgumentSerializer())
        elif choices:
            flags.DEFINE_enum(f.name, default, list(choices), text)
        elif isinstance(default, bool):
            flags.DEFINE_boolean(f.name, default, text)
        elif isinstance(default, int):
            flags.DEFINE_integer(f.name, default, text)
        elif isinstance(default, float):
            flags.DEFINE_float(f.name, default, text)
        else:
            flags.DEFINE_string(f.name, default, text)


def read(config: type[Config]) -> Config:
    """The dataclass as the flags now say. Raises ValueError where its own checks do."""
    names = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    return config(**{name: flags.FLAGS[name].value for name in names})


def presets() -> list[str]:
    """The names that --preset knows."""
    return sorted(path.stem for path in PRESETS.glob("*.flags"))


def read_preset(name: str) -> dict[str, str]:
    """The flags of launch/presets/<name>.flags. Raises ValueError for an unknown name or a line that is no flag."""
    path = PRESETS / f"{name}.flags"
    if not path.is_file():
        raise ValueError(f"--preset: expected auto, none or one of {', '.join(presets())}, got {name!r}")
    settings = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("--").partition("=")
        if not (line.startswith("--") and equals and key in flags.FLAGS):
            raise ValueError(f"{path}:{number}: expected --flag=value with a known flag, got {line!r}")
        settings[key] = value
    return settings


def typed() -> set[str]:
    """The flags that were given on the command line. Call before `fill`."""
    return {name for name in flags.FLAGS if flags.FLAGS[name].present}


def fill(settings: dict[str, Any], keep: set[str]) -> None:
    """Set flags to what a preset or a stored run says, except those in `keep`."""
    for name, value in settings.items():
        if name not in keep:
            flags.FLAGS[name].value = flags.FLAGS[name].parser.parse(value)


def as_dict(*configs: Any) -> dict[str, Any]:
    """All fields of some dataclasses, by flag name."""
    return {k: v for config in configs for k, v in dataclasses.asdict(config).items()}


def changed(stored: dict[str, Any], wanted: dict[str, Any], names: Sequence[str]) -> list[str]:
    """One line for each of the named flags whose value differs from a stored run's."""
    return [
        f"--{name}: expected {stored[name]!r} as in the stored run, got {wanted[name]!r}"
        for name in names
        if name in stored and stored[name] != wanted[name]
    ]
