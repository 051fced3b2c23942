"""Lanes as a user trains them from Python: against single runs, stopped and resumed, diverging, and read again."""

import dataclasses
import json
from functools import partial
from typing import Any

import numpy as np
import pytest

from osrjax.data import Examples, choose_data
from osrjax.devices.sharding import data_mesh
from osrjax.files import FileError
from osrjax.methods import Task, assess, make_method
from osrjax.models.backbones import NETWORKS, SmallCNN
from osrjax.run import LANE_METRICS, Lane, StopSignal, lanes as module, make_program, train_lanes
from osrjax.run.lane_program import LanesProgram
from osrjax.train.sweep import SweepState

STEPS, BATCH = 6, 32
CONFIG = {"method": "m_ovr", "crop_padding": 1, "flip": False, "learning_rate": 0.02}
CHANGES = {"m = 0": {"margin": 0.0}, "m = 0.5": {"margin": 0.5}, "hot": {"learning_rate": 1e38}}


@pytest.fixture(scope="module", autouse=True)
def narrow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small_cnn", partial(SmallCNN, width=4, features=16))
        yield


@pytest.fixture(scope="module")
def data():
    return choose_data({"data": "digits"})[1]


def lane_of(data, name, seed=0, **changes):
    task = Task(len(data.known_classes), data.train.images.shape[1:], STEPS)
    return Lane(name, make_method({**CONFIG, **CHANGES.get(name, {}), **changes}, task), data, seed)


@pytest.fixture(scope="module")
def lanes(narrow, data):
    return [lane_of(data, name, seed) for seed, name in enumerate(CHANGES)]


@pytest.fixture(scope="module")
def whole(lanes, tmp_path_factory):
    """Three lanes trained without a pause, and what became of them."""
    directory = tmp_path_factory.mktemp("lanes") / "whole"
    return directory, train_lanes(directory, lanes, steps=STEPS, batch_size=BATCH, save_every=4, log_every=2)


def arrays_of(directory):
    with np.load(directory / "outputs.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_each_lane_is_its_single_run_whatever_becomes_of_the_others(whole, lanes, data):
    """The third lane has diverged meanwhile."""
    directory, found = whole
    assert found.exit_code == 0
    outputs = arrays_of(directory)
    assert outputs["rows are those of lane"].tolist() == [0, 0, 0]
    for number, lane in enumerate(lanes[:2]):
        program = make_program(lane.method, data.train, seed=lane.seed, batch_size=BATCH, mesh=data_mesh(1))
        state = program.new_state()
        for inputs, _ in zip(program.inputs(0), range(STEPS), strict=False):
            state, _ = program.step(state, inputs)
        parts = {"validation": data.validation, "known": data.test_known, "unknown": data.test_unknown}
        single = {part: program.outputs(state, examples.images) for part, examples in parts.items()}
        for part, values in single.items():
            rows = outputs[f"rows of lane 0 {part}"]
            for name in ("logits", "embedding"):
                np.testing.assert_allclose(outputs[name][number, rows], values[name], atol=1e-4, err_msg=part)
        labels = {"validation": data.validation.labels, "known": data.test_known.labels}
        wanted = assess(lane.method, single, labels, resamples=0).results
        assert found.lanes[number]["diverged_at"] is None
        for metric in ("auroc", "oscr", "closed_set_accuracy"):
            value = wanted["scores"]["m_ovr"][metric]["value"]
            assert found.lanes[number][metric] == pytest.approx(value, abs=0.01), metric
        assert found.lanes[number]["davies_bouldin"] == pytest.approx(wanted["davies_bouldin"], rel=1e-2)
    assert found.lanes[2].keys() == {"diverged_at"}
    assert 1 <= found.lanes[2]["diverged_at"] <= STEPS
    assert {name for name in LANE_METRICS if name not in ("jnd", "norm_known", "norm_unknown")} < found.lanes[0].keys()
    assert not np.allclose(outputs["logits"][0], outputs["logits"][1], atol=1e-2)  # other margin, other seed
    ends = [row for row in found.history if row["step"] == STEPS]
    assert [row["lane"] for row in ends] == [0, 1]
    assert ends[1]["auroc"] == found.lanes[1]["auroc"]


class StopsAfter(StopSignal):
    """A signal that arrives during a step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def reached(self):
        self.left -= 1
        if not self.left:
            self._request(15, None)
        return super().reached()


def test_stopped_and_resumed_lanes_end_with_the_same_bits(whole, lanes, tmp_path, capsys):
    options: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "save_every": 4, "log_every": 2}
    with StopsAfter(3) as stop:
        stopped = train_lanes(tmp_path / "run", lanes, **options, stop=stop)
    assert (stopped.exit_code, stopped.lanes, stopped.history) == (143, [], [])
    assert "train_lanes: stopped by SIGTERM after saving step 3" in capsys.readouterr().out
    resumed = train_lanes(tmp_path / "run", lanes, **options)
    assert "going on from step 3" in capsys.readouterr().out
    directory, found = whole
    assert resumed == found
    wanted, outputs = arrays_of(directory), arrays_of(tmp_path / "run")
    assert outputs.keys() == wanted.keys()
    for name, values in wanted.items():
        assert outputs[name].tobytes() == values.tobytes(), name


def test_finished_lanes_are_read_and_not_trained_again(whole, lanes, data, monkeypatch):
    def unused(*arguments, **options):
        raise AssertionError("built again")

    monkeypatch.setattr(module, "build_lanes", unused)
    directory, found = whole
    again = train_lanes(directory, lanes, steps=STEPS, batch_size=BATCH)
    assert again == found
    assert json.loads((directory / "results.json").read_text())["lanes"] == found.lanes
    # Nor are they taken for other lanes.
    for other, batch_size, message in (
        (lanes[:2], BATCH, "there lane 2="),
        ([lane_of(data, "m = 0", margin=0.1), *lanes[1:]], BATCH, "there lane 0="),
        ([lane_of(data, "m = 0", seed=5), *lanes[1:]], BATCH, "there lane 0="),
        (lanes, 64, "there batch_size=32, now 64"),
    ):
        with pytest.raises(FileError, match=f"belongs to another configuration: {message}"):
            train_lanes(directory, other, steps=STEPS, batch_size=batch_size)


def test_other_pixels_of_the_same_number_are_not_taken_for_the_lanes(whole, lanes, data):
    directory, found = whole
    changed = data.train.images.copy()
    changed[0, 0, 0] ^= 1
    other = dataclasses.replace(data, train=data.train._replace(images=changed))
    with pytest.raises(FileError, match=r"was started with other data \(images of lane 0 differs\)"):
        train_lanes(directory, [lane._replace(data=other) for lane in lanes], steps=STEPS, batch_size=BATCH)
    provenance = json.loads((directory / "provenance.json").read_text())
    (directory / "provenance.json").write_text(json.dumps({"starts": provenance["starts"]}))  # of an earlier version
    assert train_lanes(directory, lanes, steps=STEPS, batch_size=BATCH) == found


def test_a_lane_that_the_last_update_broke_is_left_out_of_the_mean_accuracy(lanes, data):
    labels = data.validation.labels
    logits = 10 * np.eye(6, dtype=np.float32)[labels][:, None].repeat(3, axis=1)
    logits[:, 0] = np.nan
    logits[: len(labels) // 2, 1] = 10 * np.eye(6)[(labels[: len(labels) // 2] + 1) % 6]

    def unused(*_) -> Any:
        return None

    program = LanesProgram(
        *(unused, unused, unused),
        outputs=lambda state: {"logits": logits},
        norms=None,
        diverged=lambda state: np.array([0, 0, 1]),
        rows=[{"validation": np.arange(len(labels))}] * 3,
    )
    wanted = 1 - (len(labels) // 2) / len(labels)
    state = SweepState(unused(), unused())
    assert module.mean_accuracy(lanes, program, state) == pytest.approx(wanted)


def test_lanes_that_are_none_of_one_program_are_refused(lanes, data, tmp_path):
    """By name, before a directory is made."""
    fewer = choose_data({"data": "digits", "known": [0, 1, 2]})[1]
    for others, message in (
        ([], "lanes is empty: give one or more"),
        ([lane_of(data, "target", method="m_ovr_target")], "lanes 'm = 0' and 'target' differ in method: give each a"),
        ([lane_of(data, "wide", crop_padding=2, momentum=0.5)], "'wide' differ in crop_padding, momentum: give each"),
        ([lane_of(fewer, "three")], "'m = 0' and 'three' differ in classes"),
        ([lanes[0]._replace(data=fewer)], "the method is made for classes=6, .* the data has 3 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            train_lanes(tmp_path / "run", [*lanes, *others] if others else [], steps=STEPS, batch_size=BATCH)
    for part in ("validation", "test_known", "test_unknown"):
        empty = Examples(data.train.images[:0], data.train.labels[:0])
        broken = [lanes[0]._replace(data=dataclasses.replace(data, **{part: empty}))]
        with pytest.raises(ValueError, match=f"data.{part} holds no image: give some"):
            train_lanes(tmp_path / "run", broken, steps=STEPS, batch_size=BATCH)
    with pytest.raises(ValueError, match=f"steps=7, but the methods are made for {STEPS}: give the Task as many"):
        train_lanes(tmp_path / "run", lanes, steps=7, batch_size=BATCH)
    with pytest.raises(ValueError, match="batch_size=100000 exceeds the 778 training images"):
        train_lanes(tmp_path / "run", lanes, steps=STEPS, batch_size=100_000)
    assert not (tmp_path / "run").exists()
