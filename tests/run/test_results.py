"""What scripts find beside a run: never in the place of another answer, and said before the work where it cannot be."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

from osrjax.fields import Execution
from osrjax.files import FileError, write_json
from osrjax.run import asked_of, kept_arrays, result_directory


@dataclasses.dataclass(frozen=True)
class Config:
    run: Path
    against: tuple[str, ...] = ()
    batch: Annotated[int, Execution] = 5
    out: Path | None = None


def answer(config):
    """As a script does it."""
    directory = result_directory(config, "ood", "ood.json")
    write_json(directory / "ood.json", {"asked": asked_of(config), "value": list(config.against)})
    return directory.name


def test_another_question_gets_another_directory(tmp_path):
    (tmp_path / "run").mkdir()
    names = [answer(Config(tmp_path / "run", against)) for against in (("a",), ("b",), ("a",), ("a", "b"), ("b",))]
    assert names == ["ood", "ood-2", "ood", "ood-3", "ood-2"]
    assert answer(Config(tmp_path / "run", ("b",), batch=7)) == "ood-2"  # how it is computed is no question
    first = (tmp_path / "run" / "ood" / "ood.json").read_text()
    assert '"a"' in first
    assert '"b"' not in first


@pytest.mark.parametrize("there", ["{}", "[]", "", '{"sets": {}}', '{"asked": 3}'])
def test_a_file_of_an_earlier_version_or_a_damaged_one_is_kept(there, tmp_path):
    (tmp_path / "ood").mkdir()
    (tmp_path / "ood" / "ood.json").write_text(there)
    assert answer(Config(tmp_path)) == "ood-2"
    assert (tmp_path / "ood" / "ood.json").read_text() == there


def test_a_directory_that_the_user_names(tmp_path, monkeypatch):
    one, other = (Config(tmp_path, (name,), out=tmp_path / "mine") for name in "ab")
    assert [answer(one), answer(one)] == ["mine", "mine"]
    with pytest.raises(ValueError, match=r"out='.*mine' holds a ood.json that answers another question: give another"):
        answer(other)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"out='.*file/x' cannot be made \(Not a directory\): give another directory"):
        answer(Config(tmp_path, out=tmp_path / "file" / "x"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a disk that is mounted read-only
    with pytest.raises(ValueError, match=r"out='.*mine' cannot be written: give another directory"):
        answer(one)


def test_nothing_is_written_through_a_link_in_the_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "ood").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="run/ood is a link, and nothing is written through one"):
        answer(Config(tmp_path / "run"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@dataclasses.dataclass(frozen=True)
class OfRuns:
    runs: tuple[Path, ...]
    images: int = 5
    batch: Annotated[int, Execution] = 5


def test_what_was_measured_of_a_run_is_read_again_and_never_for_another_question(tmp_path):
    calls = []

    def values(config, run, names=("norm",)):
        def measure():
            calls.append(config.images)
            return {"norm": np.full(config.images, 2.0)}

        return kept_arrays(config, run, "parts", measure, names=names)["norm"].tolist()

    runs = (tmp_path / "a", tmp_path / "b")
    for run in runs:
        run.mkdir()
    assert [values(OfRuns(runs), run) for run in (*runs, runs[0])] == [[2.0] * 5] * 3
    assert values(OfRuns(runs[:1], batch=7), runs[0]) == [2.0] * 5  # beside other runs it is the same question
    assert values(OfRuns(runs, images=3), runs[0]) == [2.0] * 3
    assert calls == [5, 5, 3]
    assert sorted(path.name for path in runs[0].iterdir()) == ["parts", "parts-2"]
    with pytest.raises(FileError, match=r"parts\.npz lacks radius: delete .*a/parts, and give the same command again"):
        values(OfRuns(runs), runs[0], ("norm", "radius"))
    (runs[0] / "parts" / "parts.npz").write_bytes(b"PK")
    with pytest.raises(FileError, match=r"parts\.npz .*delete .*a/parts, and give the same command again"):
        values(OfRuns(runs), runs[0])
