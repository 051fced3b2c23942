"""Do two directories hold the same results, bit by bit? For chaos.py.

Compared are all arrays, the checksums of the checkpoints, the log, tables, configuration and figures; not compared are
times, speeds and TensorBoard events.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np


def is_measured(name: str) -> bool:
    """Whether a field holds a time, a speed, or what belongs to a directory or a start alone."""
    return "second" in name or name in ("out", "starts")


def without_measured(value: Any) -> Any:
    """A JSON value without such fields."""
    if isinstance(value, dict):
        return {name: without_measured(inner) for name, inner in value.items() if not is_measured(name)}
    return [without_measured(inner) for inner in value] if isinstance(value, list) else value


def content(file: Path) -> Any:
    """What must be the same in a file, as a value that compares equal for equal bits; None: not compared."""
    if file.name == "_CHECKPOINT_METADATA":  # its checksums are those of every array of the state
        return json.loads(file.read_text())["custom_metadata"]
    if "checkpoints" in file.parts:
        return None
    if file.suffix in (".npz", ".npy"):
        loaded: Any = np.load(file)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
        return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}
    if file.suffix in (".json", ".jsonl"):
        texts = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
        return [json.dumps(without_measured(json.loads(text))) for text in texts]  # as text, for NaN equals NaN there
    if file.suffix == ".csv":
        with file.open(newline="") as lines:
            return [{k: v for k, v in row.items() if not is_measured(str(k))} for row in csv.DictReader(lines)]
    return file.read_bytes() if file.suffix in (".png", ".svg") else None


def compare(wanted: Path, found: Path) -> tuple[list[str], list[str]]:
    """Compares every file of a run that holds results with the file of the same name in another run.

    Returns:
      The names of the files that were compared, and what differs, a line each.
    """
    compared, different = [], []
    for file in sorted(path for path in wanted.rglob("*") if path.is_file()):
        if (expected := content(file)) is None:
            continue
        name = str(file.relative_to(wanted))
        compared.append(name)
        try:
            if content(found / name) != expected:
                different.append(f"{name} differs")
        except FileNotFoundError:
            different.append(f"{name} is missing")
        except (ValueError, OSError) as error:
            different.append(f"{name} cannot be read ({error})")
    return compared, different
