"""From a command line to a configuration: presets, ``--smoke``, and refusals of one line; imports no JAX."""

import argparse
import contextlib
import dataclasses
import io
import itertools
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar, get_type_hints

import tyro

from osrjax.files import check_local

__all__ = ["Smoke", "parse", "preset_config"]

AnyConfig = TypeVar("AnyConfig")
Smoke = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]]


def parse(
    config_class: type[AnyConfig],
    arguments: list[str] | None = None,
    *,
    description: str | None = None,
    presets: Mapping[str, AnyConfig] | None = None,
    smoke: Smoke | None = None,
    prog: str | None = None,
) -> AnyConfig:
    """The configuration of a command line: a preset, then what ``--smoke`` changes, then whatever it overrides.

    ``--steps`` undoes the preset's ``epochs`` and those of every stage, ``--first-stage-steps`` its
    ``first_stage_epochs``; to give both is refused.

    Args:
      config_class: a dataclass; with presets it has a field ``preset``.
      arguments: the words after the script's name; those of this process for None.
      description: for ``--help``.
      presets: by name.
      smoke: by field, other defaults with ``--smoke``; or a function that gives them for a preset.
      prog: what ``--help`` calls the command; the name of the script for None.

    Returns:
      The configuration. ``--help`` ends the process.

    Raises:
      ValueError: an unknown option, a value that its type refuses, an unknown preset, steps and epochs together, or a
        path that is not of this machine.
    """
    kind: Any = config_class
    arguments = [_renamed(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    arguments = _with_values(arguments, kind)
    names = [field.name for field in dataclasses.fields(kind)]
    given = _given(arguments, names)
    undone = dict.fromkeys(_undone(names, given))
    default: Any = None
    if presets is not None:
        name = given.get("preset") or next(iter(presets))
        if name not in presets:
            raise ValueError(f"preset={name!r} does not exist: choose from {', '.join(presets)}")
        default = _default(presets[name], name, smoke if given.get("smoke") else None)
        description = f"{description}\nPresets: {', '.join(presets)}."
    elif given.get("smoke") and smoke is not None:
        default = _smoke_alone(kind, smoke)
    if undone and default is not None:
        default = dataclasses.replace(default, **undone)
    with _one_line():
        config = tyro.cli(config_class, args=arguments, default=default, description=description, prog=prog)
    for name in names:
        value = getattr(config, name)
        for part in value if isinstance(value, tuple) else (value,):
            check_local(name, part)
    return config


def preset_config(presets: Mapping[str, AnyConfig], smoke: Smoke | None, config: Any) -> AnyConfig:
    """The defaults that a configuration started from.

    Args:
      presets: by name.
      smoke: as for :func:`parse`.
      config: says which preset, and whether ``smoke``.

    Returns:
      The preset, with what ``smoke`` changes where the configuration says so.
    """
    return _default(presets[config.preset], config.preset, smoke if config.smoke else None)


@contextlib.contextmanager
def _one_line() -> Generator[None]:
    """Turns what the parser would print in a box, and end the process, into a ValueError of one line."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as end:
        if not end.code:
            raise
        # A title, what is wrong, and behind a rule what help there is; in ASCII there is a rule behind the title too.
        rows = [line.strip("│ ") for line in box.getvalue().splitlines()[1:]]
        parts = [
            list(part) for is_text, part in itertools.groupby(rows, lambda row: bool(set(row) - set("─-"))) if is_text
        ]
        words = " ".join(parts[0] if parts else []).removesuffix(".")
        raise ValueError(f"{words or 'the command line cannot be understood'}: --help explains every option") from end
    sys.stderr.write(box.getvalue())


def _smoke_alone(kind: Any, smoke: Smoke) -> Any:
    """The defaults of ``--smoke`` without presets; what has no default stays required."""
    missing = dataclasses.MISSING
    required = [f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing]
    blank = kind(**dict.fromkeys(required, tyro.MISSING))
    return dataclasses.replace(blank, **(smoke if isinstance(smoke, Mapping) else smoke(blank)))


def _default(preset: Any, name: str, smoke: Any) -> Any:
    """A preset as the defaults of a command line."""
    changes = {} if smoke is None else dict(smoke if isinstance(smoke, Mapping) else smoke(preset))
    return dataclasses.replace(preset, preset=name, **changes)


def _with_values(arguments: list[str], kind: Any) -> list[str]:
    """The words with ``--flip True`` for ``--flip`` and ``--flip False`` for ``--no-flip``, where None is possible."""
    options = {f"--{name.replace('_', '-')}" for name, hint in get_type_hints(kind).items() if hint == bool | None}
    words = []
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        positive = word.replace("_", "-").replace("--no-", "--", 1)
        if positive not in options or following in ("True", "False", "None"):
            words.append(word)
        else:
            words += [positive, str(positive == word.replace("_", "-"))]
    return words


def _renamed(word: str) -> str:
    """The option that has taken the place of another: a loss is a method now."""
    option, equals, value = word.partition("=")
    return {"--loss": "--method"}.get(option, option) + equals + value


def _given(arguments: list[str], names: list[str]) -> dict[str, Any]:
    """What a command line says of its defaults: preset, smoke, and lengths in steps or in epochs."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    lengths = [name for name in names if name.endswith(("steps", "epochs")) and _other(name) in names]
    for name in [*({"preset"} & set(names)), *lengths]:
        first.add_argument(*dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")), dest=name)
    if "smoke" in names:
        first.add_argument("--smoke", action=argparse.BooleanOptionalAction)
    found = vars(first.parse_known_args(arguments)[0])
    return {name: value for name, value in found.items() if value not in (None, "None")}


def _undone(names: list[str], given: Mapping[str, Any]) -> list[str]:
    """The epochs of a preset that lengths in steps put out of force."""
    epochs = [name for name in names if name.endswith("epochs") and _other(name) in names]
    for name in epochs:
        if name in given and _other(name) in given:
            both = f"{name}={given[name]} and {_other(name)}={given[_other(name)]}"
            raise ValueError(f"{both} say the same length twice: leave one out")
    return [name for name in epochs if name not in given and (_other(name) in given or "steps" in given)]


def _other(name: str) -> str:
    """``steps`` for ``epochs`` and the reverse."""
    return name[: -len("epochs")] + "steps" if name.endswith("epochs") else name[: -len("steps")] + "epochs"
