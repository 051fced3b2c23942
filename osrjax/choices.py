"""Tables of choices: a name, and "module:object" for what it stands for, imported at its first use.

A table (networks, methods, data sets) imports nothing heavy, so that ``--help`` and a refusal can list what there is.
"""

import importlib
import os
import sys
import textwrap
from typing import Any

__all__ = ["error_text", "load", "load_own"]


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
      ValueError: as :func:`load`; also where the module itself raises an error, or ends the process.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if module := path.partition(":")[0]:
        try:
            importlib.import_module(module)
        except ImportError:
            pass  # load says so
        except (Exception, SystemExit) as error:
            raise ValueError(f"{path!r} cannot be imported, its module raises {error_text(error)}: mend it") from error
    return load(path)


def error_text(error: BaseException) -> str:
    """An error of somebody's code in one line.

    Args:
      error: that was raised.

    Returns:
      Its kind, and the first line of what it says.

    Example:
      >>> error_text(KeyError("embeddings"))
      "KeyError('embeddings')"
    """
    return textwrap.shorten(repr(error).replace("\\n", " "), 200, placeholder=" ...")
