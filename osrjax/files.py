"""Files of runs: whole or not at all, and one line that names the file and the remedy where that fails.

A disk that is full, read-only or gone, and a file that was cut or changed, are met by every long run some day. What
reads or writes the files of a run goes through here, so that the user learns which file it was and what to do. Nothing
is written or read through a link: a run directory may come from somebody else. SECURITY.md says what is guaranteed.
"""

import errno
import hashlib
import json
import math
import os
import re
import stat
import textwrap
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = [
    "FileError",
    "check_local",
    "check_memory",
    "check_no_links",
    "file_sha256",
    "json_text",
    "number_or_none",
    "open_to_append",
    "read_arrays",
    "read_json",
    "read_text",
    "reading",
    "write_arrays",
    "write_json",
    "write_whole",
    "writing",
    "written_whole",
]


class FileError(ValueError):
    """A file of a run cannot be written, or not be read; the message names it and the remedy."""


def check_local(name: str, value: object) -> None:
    """Refuses a path on another machine or service, which would become a folder of that name here.

    Args:
      name: what the user knows the path by.
      value: a path, or a text that may be one, such as ``npz:FILE``; anything else is let pass.

    Raises:
      ValueError: it begins with a scheme.

    Example:
      >>> check_local("out", Path("gs://bucket/run"))
      Traceback (most recent call last):
      ValueError: out='gs:/bucket/run' is no path of this machine: mount it, or copy it here and give that path
    """
    text = str(value) if isinstance(value, str | Path) else ""
    if re.match(r"[a-z][a-z0-9+.-]+:/", re.sub("^(npz|folder):", "", text), re.IGNORECASE):
        raise ValueError(f"{name}={text!r} is no path of this machine: mount it, or copy it here and give that path")


def check_memory(size: int, *, where: str) -> None:
    """Refuses arrays that the memory of this machine cannot hold.

    Args:
      size: of arrays that would be made, bytes.
      where: what to call them in an error.

    Raises:
      ValueError: they are larger than the memory.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        gib = 2**30
        raise ValueError(
            f"{where}: takes {size / gib:.0f} GiB, this machine has {memory / gib:.0f}: give fewer or smaller images"
        )


def check_no_links(directory: Path) -> None:
    """Refuses a directory with links in it, through which files elsewhere would be written, or with pipes and devices.

    Args:
      directory: may be a link itself, which the user has named.

    Raises:
      FileError: names the first one.
    """
    for folder, folders, names in os.walk(directory):
        for name in sorted((*folders, *names)):
            mode = (path := Path(folder, name)).lstat().st_mode
            if stat.S_ISLNK(mode):
                raise _link_error(path)
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise FileError(f"{path} is neither a file nor a folder: remove it")


def _link_error(path: Path, deed: str = "written") -> "FileError":
    return FileError(f"{path} is a link, and nothing is {deed} through one: put the file or folder itself there")


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
    except FileError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link_error(Path(path)) from error
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
        said = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        reason = "it holds no plain arrays" if "pickle" in said else textwrap.shorten(said, 160, placeholder=" ...")
        raise FileError(f"{path} cannot be read, it is cut or damaged ({reason}): {remedy}") from error


def open_to_append(path: Path) -> IO[str]:
    """Opens a file for appending, a lock file too; made if it does not exist, never through a link.

    Args:
      path: in a directory that exists.

    Returns:
      The open file.

    Raises:
      OSError: also where the file is a link.
    """
    return open(path, "a", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


@contextmanager
def written_whole(path: Path) -> Generator[IO[bytes]]:
    """A file to write, which becomes ``path`` at the end of the block: written beside it, then renamed.

    Args:
      path: in a directory that exists; a link there is replaced, and what it led to left alone.

    Raises:
      FileError: the operating system refuses.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with writing(path):
        temporary.unlink(missing_ok=True)  # of a write that was killed; a link, or another name of a precious file
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all.

    Args:
      path: in a directory that exists.
      data: its new content.

    Raises:
      FileError: the operating system refuses.
    """
    with written_whole(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all, as :func:`json_text` has it.

    Args:
      path: in a directory that exists.
      value: plain values.

    Raises:
      FileError: the operating system refuses.
    """
    write_whole(path, (json_text(value, indent=2) + "\n").encode())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz file whole or not at all.

    Args:
      path: in a directory that exists.
      arrays: by name.

    Raises:
      FileError: the operating system refuses.
    """
    named: dict[str, Any] = dict(arrays)
    with written_whole(path) as file:
        np.savez_compressed(file, **named)


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


def file_sha256(path: Path) -> str:
    """The checksum of a file of any size.

    Args:
      path: the file, which exists.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(path: Path, *, named: bool = False) -> IO[bytes]:
    """A regular file to read: neither a pipe, which would wait for ever, nor a link, unless the user has named it."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if named else os.O_NOFOLLOW)), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link_error(path, "read") from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no regular file")
    return file


def read_text(path: Path, remedy: str, *, limit: int = 2**26) -> str:
    """The text in a file, which is no link.

    Args:
      path: the file, which exists.
      remedy: what to do if it is damaged.
      limit: bytes that it may have.

    Raises:
      FileError: it cannot be read, or is larger.
    """
    with reading(path, remedy), _opened(path) as file:
        text = file.read(limit + 1)
        if len(text) > limit:
            raise ValueError(f"it is larger than {limit >> 20} MiB")
        return text.decode()


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file, which is no link.

    Args:
      path: the file, which exists.
      remedy: what to do if it is damaged.

    Raises:
      FileError: it cannot be read, or holds another kind of value.
    """
    text = read_text(path, remedy)
    with reading(path, remedy):
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__} in place of an object")
        return value


def read_arrays(
    path: Path,
    remedy: str,
    *,
    names: Collection[str] | None = None,
    finite: bool = True,
    limit: int | None = None,
    named: bool = False,
) -> dict[str, np.ndarray]:
    """The arrays of a .npz file, never an object that would have to be unpickled.

    Args:
      path: the file, which exists.
      remedy: what to do if it is damaged.
      names: arrays to read where they are there; None for all.
      finite: all of them must be numbers, and finite.
      limit: bytes that its arrays may take; the memory of the machine for None.
      named: the user has named the file itself, so that it may be a link.

    Raises:
      FileError: it cannot be read, or holds anything else.
    """
    with reading(path, remedy), _opened(path, named=named) as file:
        stored = np.load(file, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz file")
        size = sum(member.file_size for member in stored.zip.infolist())
        if size > 2**31 and size > 100 * path.stat().st_size:  # no numbers that were measured are packed so well
            raise ValueError(f"its arrays would take {size >> 30} GiB")
        if limit is not None and size > limit:
            raise ValueError(f"its arrays would take {size >> 20} MiB")
        check_memory(size, where="its arrays")
        arrays = {name: stored[name] for name in stored.files if names is None or name in names}
        for name, array in arrays.items() if finite else ():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                raise ValueError(f"{name} is no array of numbers")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or infinity")
        return arrays
