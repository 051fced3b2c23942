"""What the fields of a configuration say of themselves, in one place with the field.

A configuration is a frozen dataclass, made of the parents that several scripts share and of fields of its own. A field
that says how a run is computed, and not what comes out, carries a mark::

    eval_batch_size: Annotated[int, Execution] = 500

Each class of a configuration may have a method ``check`` that refuses bad values of its own fields alone.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

__all__ = ["Execution", "check_above_zero", "check_fields", "check_not_negative", "execution_fields"]


class Execution:
    """Mark of a field that may differ between two starts of one run: where it is computed, and in which portions."""


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
    hints = get_type_hints(config_class, include_extras=True)
    return tuple(f.name for f in dataclasses.fields(config_class) if Execution in get_args(hints[f.name]))


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
