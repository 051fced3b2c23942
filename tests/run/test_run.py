"""The run directory: what it refuses, and what a kill leaves behind."""

import errno
import json
import os
import signal

import numpy as np
import pytest

from osrjax import files
from osrjax.run.directory import Run, read_network
from osrjax.run.environment import provenance
from osrjax.run.signals import StopSignal


def test_another_configuration_is_refused_by_the_field_that_differs(tmp_path):
    with Run(tmp_path / "r", {"margin": 0.5, "out": "a"}, ignore=("out",)):
        pass
    with Run(tmp_path / "r", {"margin": 0.5, "out": "b"}, ignore=("out",)):
        pass
    with pytest.raises(ValueError, match=r"margin=0\.5, now 0\.4"):
        Run(tmp_path / "r", {"margin": 0.4, "out": "a"}, ignore=("out",))
    assert json.loads((tmp_path / "r" / "config.json").read_text())["margin"] == 0.5


def test_a_directory_of_before_is_read_or_refused_by_the_field_that_came_or_went(tmp_path):
    with Run(tmp_path / "r", {"margin": 0.5, "warmup": 3, "stream": True}):
        pass
    for config, message in (
        ({"margin": 0.5}, "there warmup=3, now there is no such field"),
        ({"margin": 0.5, "warmup": 3, "depth": 2}, "there no depth, now 2;"),
        ({"margin": 0.5, "depth": 2}, r"there no depth, now 2 \(1 more differ\);"),
    ):
        with pytest.raises(ValueError, match=message):
            Run(tmp_path / "r", config, ignore=("stream",))
    # A field that came and is left to its default asks for nothing that the run has not done.
    for depth, defaults in ((None, {}), (2, {"depth": 2, "margin": 0.1, "later": 3})):
        config = {"margin": 0.5, "warmup": 3, "depth": depth}
        with Run(tmp_path / "r", config, defaults=defaults, ignore=("stream",)) as run:
            assert run.read_json("config.json") == {"margin": 0.5, "warmup": 3, "stream": True}
    with pytest.raises(ValueError, match="there no depth, which means 2, now 4; choose another directory or repeat"):
        Run(tmp_path / "r", {"margin": 0.5, "warmup": 3, "depth": 4}, defaults={"depth": 2}, ignore=("stream",))
    with pytest.raises(ValueError, match="no such field; choose another directory, or go on with the version that"):
        Run(tmp_path / "r", {"margin": 0.5}, ignore=("stream",))


def test_other_data_is_refused_and_every_start_is_remembered(tmp_path):
    content = {"sources": [{"name": "a", "provenance": "sha256 1"}], "image_shape": (8, 8, 1)}
    for backend in ("cpu", "tpu"):
        with Run(tmp_path / "r", {}, content=content) as run:
            run.record_start({"backend": backend})
    other = {**content, "sources": [{"name": "a", "provenance": "sha256 2"}]}
    with pytest.raises(ValueError, match="started with other data"):
        Run(tmp_path / "r", {}, content=other)
    stored = json.loads((tmp_path / "r" / "provenance.json").read_text())
    assert [start["backend"] for start in stored["starts"]] == ["cpu", "tpu"]
    assert stored["sources"] == content["sources"]


def test_data_that_has_moved_is_the_same_data(tmp_path, monkeypatch):
    content = {"known_names": ["a"], "sources": [{"name": "npz:a.npz", "provenance": "1"}], "sha256": {"train": "abc"}}
    with Run(tmp_path / "r", {"data": "npz:a.npz", "steps": 3}, content=content, places=("data",)):
        pass
    moved = content | {"sources": [{"name": "npz:b/c.npz", "provenance": "2"}]}
    with Run(tmp_path / "r", {"data": "npz:b/c.npz", "steps": 3}, content=moved, places=("data",)):
        pass
    other = moved | {"sha256": {"train": "abd"}}
    message = (
        r"out='r' was started with other data \(sha256 differs, data='npz:a\.npz' then, 'npz:b/c\.npz' now\): choose"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        Run("r", {"data": "npz:b/c.npz", "steps": 3}, content=other, places=("data",), argument="out")


def test_a_method_whose_file_has_changed_is_refused_and_one_that_was_not_remembered_is_not(tmp_path):
    with Run(tmp_path / "old", {}, content={"sha256": {"train": "a"}}):
        pass
    with Run(tmp_path / "new", {}, content={"sha256": {"train": "a"}, "source of focal:FOCAL": "1"}):
        pass
    now = {"sha256": {"train": "b"}, "source of focal:FOCAL": "2"}
    with pytest.raises(ValueError, match="was started with another source of focal:FOCAL: choose another directory or"):
        Run(tmp_path / "new", {}, content=now)
    with Run(tmp_path / "old", {}, content=now | {"sha256": {"train": "a"}}):
        pass


@pytest.mark.parametrize("name", ["train.log", "slurm-7.out", "job.err", "lost+found", ".nfs0001", ".DS_Store"])
def test_what_a_queue_or_a_file_system_leaves_in_a_new_directory_does_not_stop_a_run(name, tmp_path):
    (tmp_path / name).mkdir()
    with Run(tmp_path, {"a": 1}) as run:
        assert run.read_json("config.json") == {"a": 1}


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "checkpoints", "events/x", ".config.json.partial"])
def test_a_run_directory_with_a_link_in_it_is_refused_and_nothing_written(name, tmp_path):
    (tmp_path / "precious").write_text("of somebody else")
    (tmp_path / "r" / "events").mkdir(parents=True)
    (tmp_path / "r" / "config.json").write_text("{}")
    (tmp_path / "r" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match=f"r/{name} is a link, and nothing is written through one"):
        Run(tmp_path / "r", {})
    assert (tmp_path / "precious").read_text() == "of somebody else"


def test_a_second_name_of_a_file_keeps_its_content(tmp_path):
    (tmp_path / "precious").write_text("of somebody else")
    (tmp_path / "r").mkdir()
    for name in (".lock", ".config.json.partial", ".metrics.jsonl.partial"):
        os.link(tmp_path / "precious", tmp_path / "r" / name)
    with Run(tmp_path / "r", {}) as run:
        run.start_log(0)
    assert (tmp_path / "precious").read_text() == "of somebody else"


def test_a_finished_run_on_a_disk_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    with Run(tmp_path / "r", {"a": 1}) as run:
        run.write_json("results.json", {"table": "numbers"})

    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files, "open_to_append", refuse)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "r").iterdir()}
    with Run(tmp_path / "r", {"a": 1}) as run:
        assert run.read_json("results.json") == {"table": "numbers"}
        assert not run.writes
        run.write_json("results.json", {})
        run.record_start({})
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "r").iterdir()} == before
    with pytest.raises(ValueError, match="belongs to another configuration: there a=1, now 2"):
        Run(tmp_path / "r", {"a": 2})
    (tmp_path / "r" / "results.json").unlink()
    with pytest.raises(ValueError, match=r"cannot be written \(Read-only file system\): choose another one"):
        Run(tmp_path / "r", {"a": 1})


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
@pytest.mark.parametrize("text", ["[]", "null", "3", '{"a": '])
def test_a_json_file_of_another_type_is_one_line(name, text, tmp_path):
    with Run(tmp_path / "r", {}):
        pass
    (tmp_path / "r" / name).write_text(text)
    with pytest.raises(
        ValueError, match=rf"^.*r/{name} cannot be read, .*: restore it, or start in a new run directory$"
    ):
        Run(tmp_path / "r", {})


def test_a_start_that_was_killed_at_once_can_be_repeated(tmp_path):
    (tmp_path / "r").mkdir()
    for name in (".lock", ".config.json.partial"):
        (tmp_path / "r" / name).write_text("{")
    with Run(tmp_path / "r", {"a": 1}) as run:
        assert run.read_json("config.json") == {"a": 1}


def test_a_directory_in_use_or_of_others_or_not_writable_is_refused(tmp_path):
    with Run(tmp_path / "r", {}), pytest.raises(ValueError, match="in use by another process"):
        Run(tmp_path / "r", {})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(ValueError, match="neither empty nor a run directory"):
        Run(tmp_path / "thesis", {})
    with pytest.raises(ValueError, match="cannot be written"):
        Run(tmp_path / "thesis" / "chapter.tex" / "r", {})


@pytest.mark.filterwarnings("ignore:metrics.jsonl")
def test_later_and_cut_lines_are_dropped_on_resuming(tmp_path):
    with Run(tmp_path / "r", {}) as run:
        run.start_log(0)
        for step in (1, 2, 3):
            run.log(step, {"train/loss": step / 2})
    log = tmp_path / "r" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 4, "tra')  # killed while writing
    with Run(tmp_path / "r", {}) as run:
        run.start_log(2)
        run.log(3, {"train/loss": float("nan")})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["train/loss"] is None
    assert list((tmp_path / "r" / "events").glob("events.out.tfevents.*"))


def test_no_file_of_a_run_holds_what_is_no_json(tmp_path):
    with Run(tmp_path / "r", {"openness": float("inf")}) as run:
        run.start_log(0)
        run.log(1, {"probe/davies_bouldin": float("inf"), "train/loss": 0.5})
        run.write_json("results.json", {"davies_bouldin": float("nan"), "interval": (0.5, float("inf"))})
    with Run(tmp_path / "r", {"openness": float("inf")}):  # the same configuration
        pass

    def strict(name):
        return json.loads((tmp_path / "r" / name).read_text(), parse_constant=pytest.fail)

    assert strict("metrics.jsonl") == {"step": 1, "probe/davies_bouldin": None, "train/loss": 0.5}
    assert strict("results.json") == {"davies_bouldin": None, "interval": [0.5, None]}
    assert strict("config.json") == {"openness": None}


def test_events_are_readable_and_hold_the_scalars(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with Run(tmp_path / "r", {}) as run:
        run.start_log(0)
        run.log(7, {"train/loss": 0.25})
    (path,) = (tmp_path / "r" / "events").iterdir()
    data, found = path.read_bytes(), []
    while data:  # a TFRecord: length, its checksum, the message, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[12 + length + 4 :]
    assert found == [(7, "train/loss", 0.25)]


def test_a_network_is_read_back(tmp_path):
    variables = {"params": {"a": {"kernel": np.arange(3.0)}}, "batch_stats": {"b": np.ones(2, np.float32)}}
    with Run(tmp_path / "r", {}) as run:
        run.write_network(variables)
    found = read_network(tmp_path / "r" / "network.npz")
    np.testing.assert_array_equal(found["params"]["a"]["kernel"], np.arange(3.0))
    assert found["batch_stats"]["b"].dtype == np.float32


def test_a_signal_becomes_a_request_and_the_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert (stop.name, stop.exit_code) == ("SIGTERM", 143)
    assert signal.getsignal(signal.SIGTERM) is before


def test_provenance_names_versions_and_devices():
    found = json.loads(json.dumps(provenance()))
    assert found["versions"]["jax"].startswith("0.")
    assert found["backend"] == "cpu"
    assert len(found["devices"]) == 4
