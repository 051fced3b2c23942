"""What the fields of a configuration say of themselves, in one place with the field.

A configuration is a frozen dataclass, made of the parents that several scripts share and of fields of its own. A field
that says how a run is computed, and not what comes out, carries a mark::

    eval_batch_size: Annotated[int, Execution] = 500

One that says where data lies carries :class:`Place`. A field that is added later has the old behaviour as its default:
that is what it means for the run directories of before, which lack it. Other defaults belong into a preset.

Each class of a configuration may have a method ``check`` that refuses bad values of its own fields alone.
"""

import dataclasses
import reprlib
import types
from collections.abc import Iterable, Mapping
from inspect import formatannotation
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = [
    "Execution",
    "Place",
    "check_above_zero",
    "check_at_most",
    "check_directories",
    "check_fields",
    "check_named_once",
    "check_not_negative",
    "check_printable",
    "check_resamples",
    "check_seed",
    "check_type",
    "execution_fields",
    "marked_fields",
    "plain_fields",
]


class Execution:
    """Mark of a field that may differ between two starts of one run: where it is computed, and in which portions."""


class Place:
    """Mark of a field that says where data lies: it may differ where the checksums of the data are the same."""


def marked_fields(config_class: Any, mark: type) -> tuple[str, ...]:
    """The fields that carry a mark, in the order of the fields.

    Args:
      config_class: a dataclass.
      mark: :class:`Execution` or :class:`Place`.

    Returns:
      Their names.
    """
    hints = get_type_hints(config_class, include_extras=True)
    return tuple(f.name for f in dataclasses.fields(config_class) if mark in get_args(hints[f.name]))


def execution_fields(config_class: Any) -> tuple[str, ...]:
    """The fields that are marked with :class:`Execution`.

    Args:
      config_class: a dataclass.

    Returns:
      Their names, in the order of the fields.

    Example:
      >>> from typing import Annotated
      >>> @dataclasses.dataclass
      ... class Config:
      ...     steps: int = 800
      ...     devices: Annotated[int | None, Execution] = None
      >>> execution_fields(Config)
      ('devices',)
    """
    return marked_fields(config_class, Execution)


def plain_fields(config: Any) -> dict[str, Any]:
    """The fields of a configuration as plain JSON values; paths become texts.

    Args:
      config: a dataclass.

    Returns:
      Values by name.
    """
    values = dataclasses.asdict(config)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def check_type(name: str, value: Any, hint: Any) -> None:
    """Refuses a value that is not of a field's type, such as one of a damaged config.json.

    Args:
      name: of the field.
      value: a JSON value, lists as tuples, or what a caller gives; NumPy's numbers are numbers.
      hint: the annotation of the field.

    Raises:
      ValueError: it is of another type.

    Example:
      >>> check_type("margin", "0.5", float)
      Traceback (most recent call last):
      ValueError: margin='0.5' is no float: correct it, ...
    """
    if not _is_of(value, hint):
        raise ValueError(
            f"{name}={reprlib.repr(value)} is no {formatannotation(hint)}: correct it, where it comes from a damaged"
            " config.json restore that"
        )


def check_printable(name: str, text: str) -> None:
    r"""Refuses a name that a table cannot show.

    Args:
      name: of the field.
      text: its value.

    Raises:
      ValueError: it is empty, or has characters that cannot be printed.

    Example:
      >>> check_printable("label", "a\tb")
      Traceback (most recent call last):
      ValueError: label='a\tb' has characters that cannot be printed: rename it
    """
    if not text.strip() or not text.isprintable():
        what = "has characters that cannot be printed" if text.strip() else "is empty"
        raise ValueError(f"{name}={text!a} {what}: rename it")


def _is_of(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:
        of_each = parts[:1] * len(value) if parts[1:] == (...,) and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(of_each) and all(map(_is_of, value, of_each))
    if hint in (int, float):
        number = "__index__" if hint is int else "__float__"
        return not isinstance(value, bool | str) and hasattr(value, number) and _fits_a_float(value)
    return not isinstance(hint, type) or isinstance(value, hint)  # a hint of another kind says too little


def _fits_a_float(value: Any) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def check_fields(config: Any) -> None:
    """Lets every class that a configuration is made of refuse bad values of its own fields, parents first.

    Args:
      config: of a class whose parents, or itself, have a method ``check``.

    Raises:
      ValueError: a value is refused.
    """
    for kind in reversed(type(config).__mro__):
        if "check" in vars(kind):
            vars(kind)["check"](config)


def check_above_zero(config: Any, names: Iterable[str]) -> None:
    """Refuses fields that are not above 0, nan too.

    Args:
      config: has the fields.
      names: of the fields; None is let pass.

    Raises:
      ValueError: a value is refused.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} must be above 0")


def check_not_negative(config: Any, names: Iterable[str]) -> None:
    """Refuses fields that are below 0, nan too.

    Args:
      config: has the fields.
      names: of the fields; None is let pass.

    Raises:
      ValueError: a value is refused.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= 0:
            raise ValueError(f"{name}={value!r} must not be negative")


def check_at_most(config: Any, limits: Mapping[str, int]) -> None:
    """Refuses fields above what memory or time can bear on any machine.

    Args:
      config: has the fields.
      limits: the largest value by name; None is let pass.

    Raises:
      ValueError: a value is refused.
    """
    for name, limit in limits.items():
        value = getattr(config, name)
        if value is not None and not value <= limit:
            raise ValueError(f"{name}={value!r} is above {limit}: give a smaller number")


def check_named_once(config: Any, name: str) -> None:
    """Refuses a list that has an entry twice.

    Args:
      config: a dataclass.
      name: of its field, a sequence of texts.

    Raises:
      ValueError: names the field and the first such entry.
    """
    entries = getattr(config, name)
    if twice := [entry for entry in entries if entries.count(entry) > 1]:
        raise ValueError(f"{name}={twice[0]!r} is named twice: name each once")


def check_resamples(config: Any) -> None:
    """Refuses a number of bootstrap resamples that gives no interval, or does not end.

    Args:
      config: has the field ``resamples``; 0 asks for no interval.

    Raises:
      ValueError: it is negative, 1 or above a million.
    """
    check_not_negative(config, ["resamples"])
    check_at_most(config, {"resamples": 1_000_000})
    if config.resamples == 1:
        raise ValueError("resamples=1 gives no interval: use 0 for none, or 1000")


def check_directories(config: Any, name: str, holding: str) -> None:
    """Refuses an empty list of directories, and what is none.

    Args:
      config: a dataclass.
      name: of its field, a sequence of paths.
      holding: what each of them should be: "... is no directory: give HOLDING".

    Raises:
      ValueError: names the field and the first such path.
    """
    places = getattr(config, name)
    if not places:
        raise ValueError(f"{name}=[] names nothing: give {holding}")
    for place in places:
        if not place.is_dir():
            raise ValueError(f"{name}={str(place)!r} is no directory: give {holding}")


def check_seed(config: Any, names: Iterable[str] = ("seed",)) -> None:
    """Refuses seeds that are negative, or of which JAX would read only the last 32 bits.

    Args:
      config: has the fields.
      names: of the fields.

    Raises:
      ValueError: a value is refused.
    """
    check_not_negative(config, names)
    check_at_most(config, dict.fromkeys(names, 2**32 - 1))
