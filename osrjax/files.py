"""Files of runs: whole or not at all, and one line that names the file and the remedy where that fails.

A disk that is full, read-only or gone, and a file that was cut or changed, are met by every long run some day. What
reads or writes the files of a run goes through here, so that the user learns which file it was and what to do.
"""

import json
import math
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "FileError",
    "json_text",
    "number_or_none",
    "read_json",
    "reading",
    "write_arrays",
    "write_json",
    "write_whole",
    "writing",
]


class FileError(ValueError):
    """A file of a run cannot be written, or not be read; the message names it and the remedy."""


@contextmanager
def writing(path: str | Path) -> Generator[None]:
    """Turns a failure of the operating system to write a file into one line.

    Args:
      path: the file, or the directory of the files, that is written inside.

    Raises:
      FileError: an OSError inside.

    Example:
      >>> with writing("/dev/full"):
      ...     _ = Path("/dev/full").write_text("a line")
      Traceback (most recent call last):
      osrjax.files.FileError: /dev/full cannot be written (No space left on device): make room or ...
    """
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror or error}): make room or the place writable, then give the"
            " same command again; no file is left half written"
        ) from error


@contextmanager
def reading(path: str | Path, remedy: str) -> Generator[None]:
    """Turns a failure to read or understand a file into one line.

    Args:
      path: the file that is read inside.
      remedy: what to do about it, such as ``"delete it"``.

    Raises:
      FileError: an error inside of the kind that damaged files cause.
    """
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0][:120] or type(error).__name__
        raise FileError(f"{path} cannot be read, it is cut or damaged ({reason}): {remedy}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: beside it first, then renamed.

    Args:
      path: in a directory that exists.
      data: its new content.

    Raises:
      FileError: the operating system refuses.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with writing(path):
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz file whole or not at all.

    Args:
      path: in a directory that exists.
      arrays: by name.

    Raises:
      FileError: the operating system refuses.
    """
    temporary = path.with_name(f".{path.name}.partial")
    named: dict[str, Any] = dict(arrays)
    with writing(path):
        with temporary.open("wb") as file:
            np.savez_compressed(file, **named)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def number_or_none(value: float | None) -> float | None:
    """A number as JSON can have it: None for one that is undefined or infinite.

    Args:
      value: of Python or of NumPy.

    Example:
      >>> number_or_none(0.5), number_or_none(float("nan")), number_or_none(float("inf"))
      (0.5, None, None)
    """
    return None if value is None or not math.isfinite(value) else float(value)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: null for a number that is undefined or infinite, which JSON has no word for.

    Args:
      value: plain values; tuples become lists.
      indent: spaces a level; None for one line.

    Example:
      >>> json_text({"auroc": 0.5, "interval": (float("-inf"), float("nan"))})
      '{"auroc": 0.5, "interval": [null, null]}'
    """

    def strict(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {name: strict(found) for name, found in part.items()}
        if isinstance(part, list | tuple):
            return [strict(found) for found in part]
        return number_or_none(part) if isinstance(part, float) else part

    return json.dumps(strict(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all, as :func:`json_text` has it.

    Args:
      path: in a directory that exists.
      value: plain values.

    Raises:
      FileError: the operating system refuses.
    """
    write_whole(path, (json_text(value, indent=2) + "\n").encode())


def read_json(path: Path, remedy: str) -> Any:
    """The value in a JSON file.

    Args:
      path: the file, which exists.
      remedy: what to do if it is damaged.

    Raises:
      FileError: it cannot be read.
    """
    with reading(path, remedy):
        return json.loads(path.read_text())
