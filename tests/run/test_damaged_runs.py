"""A run directory from anywhere, asked by predict: a decision or one line, never a traceback, whatever is in it."""

import io
import json
import random
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from osrjax.commands import predict
from osrjax.data import choose_data, content_of
from osrjax.methods import Task, make_method
from osrjax.run import FinishedRun, Run, write_outputs
from osrjax.train import TrainState

FILES = ("network.npz", "scores.npz", "config.json", "provenance.json")
VALUES = (
    None,
    True,
    -1,
    0,
    3,
    2**63,
    10**400,
    1.5,
    float("nan"),
    "",
    "x",
    "\x1b[2J",
    [],
    [None],
    [1, "a"],
    {},
    {"a": 1},
)
ARRAYS = (np.zeros(0), np.zeros((3, 0)), np.array(1.0), np.full((2, 2), np.nan), np.array([None]), np.array(["a"]),
          np.ones((1, 1), bool), np.array([1e300]), np.array([2**63], np.uint64))  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run directory whose outputs are random, and an image; the network is not asked, but its file is read."""
    config = {"data": "digits", "network": "small_cnn", "method": "doc", "steps": 4, "seed": 0, "flip": False}
    split, data = choose_data(config)
    method = make_method(config, Task(6, (8, 8, 1), 4))
    draws = np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(lambda x: method.make_network(np.float32).init(jax.random.key(0), x, train=False), image)
    variables = jax.tree.map(lambda leaf: draws.normal(size=leaf.shape).astype(np.float32), shapes)
    shapes = jax.eval_shape(method.outputs, variables, image)
    parts = {"train": data.train, "validation": data.validation, "known": data.test_known, "unknown": data.test_unknown}
    outputs = {
        part: {n: draws.normal(size=(len(rows.labels), *s.shape[1:])).astype(np.float32) for n, s in shapes.items()}
        for part, rows in parts.items()
    }
    labels = {part: rows.labels for part, rows in parts.items()}
    directory = tmp_path_factory.mktemp("whole") / "run"
    with Run(directory, config, content=content_of(data, split)) as run:
        write_outputs(
            run, outputs, labels, TrainState(np.zeros((), int), variables["params"], variables["batch_stats"], ())
        )
    Image.fromarray(data.test_known.images[0, :, :, 0]).save(directory.parent / "image.png")

    def answer(self, images, *, batch_size=500):
        _ = self.variables
        return {name: rows[: len(images)] for name, rows in outputs["known"].items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinishedRun, "outputs", answer)
        yield directory


def outcome(run, capsys):
    """Exit code, and what was said of it; both are as they must be."""
    code = predict.main([str(run), str(run.parent / "image.png"), "--json"])
    printed = capsys.readouterr()
    if code == 0:
        assert isinstance(json.loads(printed.out)["decision"], str)
        assert printed.err == ""
    else:
        assert (code, printed.out) == (2, "")
        assert printed.err.startswith("predict.py: ")
        assert printed.err.count("\n") == 1
        assert "\x1b" not in printed.err
        assert len(printed.err) < 1000
    return code, printed.err


def damaged(data, draw):
    """Bytes that are cut, changed, empty, or of another kind."""
    place = draw.randrange(len(data))
    before, after = data[:place], data[place:]
    other = [b"", draw.randbytes(draw.randrange(1, 400)), b"null", b"[" * 5000, before, after, data + data]
    flipped = bytes([after[0] ^ 1 << draw.randrange(8)]) + after[1:]
    return draw.choice([*other, before + bytes(40) + after, before + flipped])


def mistyped(value, draw):
    """The JSON value with one entry, somewhere in it, of another type, or gone."""
    if isinstance(value, dict | list) and value and draw.random() < 0.8:
        key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
        changed = value.copy()
        if draw.random() < 0.1:
            del changed[key]
        else:
            changed[key] = mistyped(value[key], draw)
        return changed
    return draw.choice(VALUES)


def rearranged(data, draw):
    """The .npz file with one array of another shape or type, or gone."""
    with np.load(io.BytesIO(data)) as stored:
        arrays = dict(stored)
    name = draw.choice(list(arrays))
    array = arrays.pop(name)
    cut = draw.choice([array[:-1], array[..., None], array.T, array * 2, np.repeat(array, 2, axis=0)])
    if draw.random() < 0.9:
        arrays[draw.choice([name, name, name, name + "/x", "x"])] = draw.choice([cut, cut, *ARRAYS])
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def run_with(whole, tmp_path, changes):
    run = tmp_path / "run"
    shutil.copytree(whole, run, dirs_exist_ok=True)
    shutil.copy(whole.parent / "image.png", tmp_path)
    for name, data in changes.items():
        (run / name).write_bytes(data)
    return run


def test_a_run_as_it_was_written_decides(whole, tmp_path, capsys):
    assert outcome(run_with(whole, tmp_path, {}), capsys)[0] == 0


@pytest.mark.parametrize("name", FILES)
def test_whatever_a_file_of_a_run_holds_is_a_decision_or_one_line(name, whole, tmp_path, capsys):
    """With and without the checksums of files, which an earlier version did not keep."""
    original = (whole / name).read_bytes()
    provenance = json.loads((whole / "provenance.json").read_text())
    del provenance["files"]
    codes = []
    for seed in range(24):
        draw = random.Random(f"{name} {seed}")
        data = damaged(original, draw) if seed % 3 == 0 else None
        if data is None and name.endswith("json"):
            data = json.dumps(mistyped(json.loads(original), draw)).encode()
        changes = {name: data if data is not None else rearranged(original, draw)}
        if seed % 2 and name != "provenance.json":
            changes["provenance.json"] = json.dumps(provenance).encode()
        codes.append(outcome(run_with(whole, tmp_path, changes), capsys)[0])
    assert 2 in codes


def test_files_of_another_run_of_the_same_shape_are_refused(whole, tmp_path, capsys):
    for name in ("network.npz", "scores.npz"):
        with np.load(whole / name) as stored:
            arrays = {n: a * 2 if a.dtype == np.float32 else a for n, a in stored.items()}
        file = io.BytesIO()
        np.savez(file, **arrays)
        code, error = outcome(run_with(whole, tmp_path, {name: file.getvalue()}), capsys)
        assert code == 2
        assert f"{name} is not the file that this run wrote: restore that one, or delete it and" in error
        shutil.rmtree(tmp_path / "run")


def test_a_score_that_is_no_number_is_no_decision(whole, tmp_path, capsys, monkeypatch):
    real = FinishedRun.outputs
    monkeypatch.setattr(FinishedRun, "outputs", lambda self, images, **o: {
        name: rows * np.float32(np.nan) for name, rows in real(self, images, **o).items()})  # fmt: skip
    code, error = outcome(run_with(whole, tmp_path, {}), capsys)
    assert code == 2
    assert f"score='ovr' is nan for {tmp_path / 'image.png'}: give another --score, or train the run again" in error
