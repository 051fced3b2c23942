"""What scripts find of a finished run: beside it, and never in the place of the answer to another question."""

import itertools
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from osrjax.fields import execution_fields, plain_fields
from osrjax.files import FileError, check_no_links, read_arrays, read_json, write_arrays, write_json

__all__ = ["asked_of", "kept_arrays", "result_directory"]


def asked_of(config: Any, *, run: Path | None = None) -> dict[str, Any]:
    """What a script was asked: its fields, but for those that say how it is computed and where the result goes.

    Args:
      config: a dataclass with the field ``run``, or ``runs``.
      run: one of several.

    Returns:
      Plain JSON values by name.
    """
    left_out = {"out", "runs", *execution_fields(type(config))}
    asked = {name: value for name, value in plain_fields(config).items() if name not in left_out}
    return json.loads(json.dumps(asked | {"run": str((run or config.run).resolve())}))


def result_directory(config: Any, name: str, file: str, *, run: Path | None = None) -> Path:
    """The directory of a result: ``out``, or the first of RUN/NAME, RUN/NAME-2, ... without another answer.

    Args:
      config: a dataclass with the fields ``run`` and ``out``, or with ``runs``.
      name: of the default directory.
      file: name of the result in it, a JSON object with :func:`asked_of` under ``asked``.
      run: one of several.

    Returns:
      A directory that exists and can be written.

    Raises:
      ValueError: it cannot be written, ``out`` holds another answer, or the run holds a link.
    """
    asked, run = asked_of(config, run=run), run or config.run
    if (out := getattr(config, "out", None)) is not None:
        if _holds_another(out / file, asked):
            raise ValueError(f"out={str(out)!r} holds a {file} that answers another question: give another directory")
    else:
        check_no_links(run)
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        out = next(place for place in map(run.joinpath, names) if not _holds_another(place / file, asked))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={str(out)!r} cannot be made ({error.strerror}): give another directory") from error
    if not os.access(out, os.W_OK):
        raise ValueError(f"out={str(out)!r} cannot be written: give another directory")
    return out


def kept_arrays(
    config: Any, run: Path, name: str, measure: Callable[[], Mapping[str, np.ndarray]], *, names: Collection[str]
) -> dict[str, np.ndarray]:
    """What a script measured of one of its runs, in NAME.npz beside it: measured now, unless it was before.

    Args:
      config: a dataclass with the field ``runs``.
      run: one of them.
      name: of the file and of its directory.
      measure: gives the arrays.
      names: those that the script needs.

    Returns:
      The arrays.

    Raises:
      ValueError: as :func:`result_directory`; a file that is damaged or lacks a name.
    """
    out = result_directory(config, name, f"{name}.json", run=run)
    path = out / f"{name}.npz"
    if not (out / f"{name}.json").exists():
        write_arrays(path, measure())
        write_json(out / f"{name}.json", {"asked": asked_of(config, run=run)})
    again = f"delete {out}, and give the same command again"
    arrays = read_arrays(path, again)
    if lacking := [wanted for wanted in names if wanted not in arrays]:
        raise FileError(f"{path} lacks {lacking[0]}: {again}")
    return arrays


def _holds_another(path: Path, asked: dict[str, Any]) -> bool:
    try:
        return path.exists() and read_json(path, "delete it").get("asked") != asked
    except FileError:
        return True
