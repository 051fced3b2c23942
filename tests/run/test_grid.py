"""A grid runs what is missing, pins it, logs it, goes on after a failure, and notices foreign runs."""

import json
import os

import pytest

from osrjax.run import grid

SCRIPT = """
import argparse, os, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--value")
given = parser.parse_args()
print(given.value, os.environ.get("JAX_COMPILATION_CACHE_DIR"), len(os.sched_getaffinity(0)))
if given.value == "broken":
    sys.exit(3)
given.out.mkdir(exist_ok=True)
(given.out / "results.json").write_text(given.value)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_what_is_missing_runs_and_a_failure_stops_nothing(script, tmp_path, capsys):
    cells = {
        tmp_path / "runs" / name: ["--value", value] for name, value in zip("abc", ("1", "broken", "3"), strict=True)
    }
    failed = grid.run_cells(script, cells, workers=1, compilation_cache=tmp_path / "cache")
    assert failed == [str(tmp_path / "runs" / "b.log")]
    assert [grid.is_finished(directory) for directory in cells] == [True, False, True]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 of 3 runs are finished"
    assert [line.split(",")[0] for line in lines[1:]] == ["1/3 a: exit 0", "1/3 b: exit 3", "2/3 c: exit 0"]
    command, printed = (tmp_path / "runs" / "a.log").read_text().splitlines()
    assert command.endswith(f" --value 1 --out {tmp_path / 'runs' / 'a'}")
    assert printed == f"1 {tmp_path / 'cache'} {len(os.sched_getaffinity(0))}"
    # A second start leaves the finished ones alone.
    before = (tmp_path / "runs" / "a.log").stat().st_mtime_ns
    assert grid.run_cells(script, {**cells, tmp_path / "runs" / "b": ["--value", "2"]}, workers=2) == []
    assert (tmp_path / "runs" / "a.log").stat().st_mtime_ns == before
    assert (
        (tmp_path / "runs" / "b.log")
        .read_text()
        .splitlines()[1]
        .startswith(f"2 {os.environ['JAX_COMPILATION_CACHE_DIR']}")
    )
    assert capsys.readouterr().out.splitlines()[0] == "2 of 3 runs are finished"


def test_one_worker_per_core_shares_the_cores(script, tmp_path):
    cells = {tmp_path / name: ["--value", name] for name in "ab"}
    assert grid.run_cells(script, cells) == []
    printed = [(tmp_path / f"{name}.log").read_text().split()[-1] for name in "ab"]
    assert printed == ["1", "1"]


def test_foreign_runs_are_refused(script, tmp_path):
    cells = {tmp_path / name: ["--value", "1"] for name in ("m_=_0.25-a", "m_=_0.5-a")}
    grid.check_finished(cells)  # nothing is finished
    grid.run_cells(script, cells, workers=1)
    grid.check_finished(cells)  # points in a name do not make two runs share a log
    with pytest.raises(ValueError, match=r"m_=_0\.25-a\.log was made with other options"):
        grid.check_finished({directory: ["--value", "2"] for directory in cells})
    (tmp_path / "m_=_0.5-a.log").unlink()
    with pytest.raises(ValueError, match=r"m_=_0\.5-a\.log was made with other options"):
        grid.check_finished(cells)


def test_negative_workers_are_refused(script, tmp_path):
    with pytest.raises(ValueError, match="workers=-1"):
        grid.run_cells(script, {tmp_path / "a": []}, workers=-1)


def test_runs_of_one_split_are_of_the_same_images(tmp_path):
    contents = {
        "a": {"split": {"index": 0}, "images": {"train": 3}, "sha256": {"train": "1"}},
        "b": {"split": {"index": 0}, "images": {"train": 3}, "sha256": {"train": "1"}},
        "another split": {"split": {"index": 1}, "images": {"train": 3}, "sha256": {"train": "2"}},
        "held out": {"split": {"index": 0}, "images": {"train": 2}, "sha256": {"train": "3"}},
        "earlier version": {"split": {"index": 0}, "images": {"train": 3}},
        "unfinished": {"split": {"index": 0}, "images": {"train": 3}, "sha256": {"train": "4"}},
        "changed": {"split": {"index": 0}, "images": {"train": 3}, "sha256": {"train": "5"}},
    }
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "provenance.json").write_text(json.dumps(content))
        if name != "unfinished":
            (tmp_path / name / "results.json").write_text("{}")
    *same, changed = (tmp_path / name for name in contents)
    grid.check_same_data(same)
    with pytest.raises(ValueError, match=rf"{same[0]} and {changed} are of different images: delete one of them"):
        grid.check_same_data([*same, changed])


def test_a_log_is_not_written_through_a_link(script, tmp_path):
    (tmp_path / "precious").write_text("of somebody else")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.log").symlink_to(tmp_path / "precious")
    assert grid.run_cells(script, {tmp_path / "runs" / "a": ["--value", "1"]}, workers=1) == []
    assert (tmp_path / "precious").read_text() == "of somebody else"
