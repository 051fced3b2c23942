"""What scripts find of a finished run: beside it, and never in the place of the answer to another question."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

from osrjax.fields import execution_fields, plain_fields
from osrjax.files import FileError, check_no_links, read_json

__all__ = ["asked_of", "result_directory"]


def asked_of(config: Any) -> dict[str, Any]:
    """What a script was asked: its fields, but for those that say how it is computed and where the result goes.

    Args:
      config: a dataclass with the fields ``run`` and ``out``.

    Returns:
      Plain JSON values by name.
    """
    left_out = {"out", *execution_fields(type(config))}
    asked = {name: value for name, value in plain_fields(config).items() if name not in left_out}
    return json.loads(json.dumps(asked | {"run": str(config.run.resolve())}))


def result_directory(config: Any, name: str, file: str) -> Path:
    """The directory of a result: ``out``, or the first of RUN/NAME, RUN/NAME-2, ... without another answer.

    Args:
      config: a dataclass with the fields ``run`` and ``out``.
      name: of the default directory.
      file: name of the result in it, a JSON object with :func:`asked_of` under ``asked``.

    Returns:
      A directory that exists and can be written.

    Raises:
      ValueError: it cannot be written, ``out`` holds another answer, or the run holds a link.
    """
    asked = asked_of(config)
    if config.out is not None:
        out = config.out
        if _holds_another(out / file, asked):
            raise ValueError(f"out={str(out)!r} holds a {file} that answers another question: give another directory")
    else:
        check_no_links(config.run)
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        out = next(place for place in map(config.run.joinpath, names) if not _holds_another(place / file, asked))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={str(out)!r} cannot be made ({error.strerror}): give another directory") from error
    if not os.access(out, os.W_OK):
        raise ValueError(f"out={str(out)!r} cannot be written: give another directory")
    return out


def _holds_another(path: Path, asked: dict[str, Any]) -> bool:
    try:
        return path.exists() and read_json(path, "delete it").get("asked") != asked
    except FileError:
        return True
