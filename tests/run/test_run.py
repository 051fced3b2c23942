"""The run directory: what it refuses, and what a kill leaves behind."""

import json
import os
import signal

import numpy as np
import pytest

from osrjax.run.directory import Run, read_network
from osrjax.run.provenance import provenance
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
    with Run(tmp_path / "r", {"margin": 0.5, "warmup": 3, "depth": None}, ignore=("stream",)) as run:
        assert run.read_json("config.json") == {"margin": 0.5, "warmup": 3, "stream": True}


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
