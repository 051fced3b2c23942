"""What scripts find beside a run: never in the place of another answer, and said before the work where it cannot be."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import pytest

from osrjax.fields import Execution
from osrjax.files import FileError, write_json
from osrjax.run import asked_of, result_directory


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
