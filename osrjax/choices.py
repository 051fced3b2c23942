"""Tables of choices: a name, and "module:object" for what it stands for, imported at its first use.

A table (networks, methods, data sets) imports nothing heavy, so that ``--help`` and a refusal can list what there is.
"""

import importlib
import os
import sys
from typing import Any

__all__ = ["load", "load_own"]


def load(path: str) -> Any:
    """Imports what an entry of a table stands for.

    Args:
      path: ``"module:object"``.

    Returns:
      The object.

    Raises:
      ValueError: the path has another form, or there is no such module or object.

    Example:
      >>> load("math:sqrt")(4.0)
      2.0
    """
    module, _, name = path.partition(":")
    if not module or not name.isidentifier():
        raise ValueError(f"{path!r} is not of the form module:object, such as osrjax.models.backbones:SmallCNN")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path!r} cannot be imported ({error}): correct it, or install its module") from error


def load_own(path: str) -> Any:
    """Imports what a user names: also from the folder where the command is given, as for ``python -m``.

    Args:
      path: ``"module:object"``.

    Returns:
      The object.

    Raises:
      ValueError: as :func:`load`.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return load(path)
