import json
import re
import shutil
import socket
import sys

import numpy as np
import pytest
from conftest import plain_module

from osrjax.data import (
    MissingDataError,
    batch_indices,
    element_sequence,
    open_set_data,
    open_source,
    prepare,
    stream,
)
from osrjax.data.prepared import PREPARED_SETS, Elements, default_data_dir, prepared_versions
from osrjax.data.splits import class_split

PER_CLASS = {"train": 12, "test": 6}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Real images in two forms: an .npz file, and ArrayRecord files made from it by our builder."""
    root = tmp_path_factory.mktemp("sets")
    bundled = open_source("fashion_mnist_small")
    rng = np.random.default_rng(0)
    arrays = {"classes": np.array(bundled.class_names), "note": np.array("a slice")}
    for split, count in PER_CLASS.items():
        images, labels = bundled.splits[split]
        rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)])
        rows = rng.permutation(rows)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[rows], labels[rows]
    file = root / "slice.npz"
    np.savez(file, allow_pickle=False, **arrays)
    command = ["--npz", str(file), "--name", "fashion_mnist", "--data-dir", str(root / "tfds")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare", *command])
        prepare.main()
    return file, root / "tfds"


def test_prepared_set_reads_back_pixel_identically(sets):
    file, data_dir = sets
    npz = open_source(f"npz:{file}")
    prepared = open_source("fashion_mnist", data_dir=data_dir)
    assert sorted(prepared.splits) == ["test", "train"]
    for split, count in PER_CLASS.items():
        assert prepared.splits[split].images.shape == (10 * count, 28, 28, 1)
        assert np.array_equal(prepared.splits[split].images, npz.splits[split].images)
        assert np.array_equal(prepared.splits[split].labels, npz.splits[split].labels)
        assert prepared.splits[split].labels.dtype == np.int32
    assert prepared.class_names == npz.class_names
    assert not prepared.complete  # 120 of 60 000 images
    assert "fashion_mnist 1.0.0" in prepared.provenance
    assert prepared.provenance.endswith(npz.provenance)
    assert "tensorflow" not in sys.modules


def test_training_sees_the_same_pixels_from_either_form(sets):
    file, data_dir = sets
    split = class_split("neal", "fashion_mnist", 1)
    ours, theirs = (
        open_set_data(source, split, seed=3)
        for source in (open_source(f"npz:{file}"), open_source("fashion_mnist", data_dir=data_dir))
    )
    batches = batch_indices(len(ours.train.labels), 32, seed=5)
    for step in range(6):
        rows = batches[step]
        assert np.array_equal(ours.train.images[rows], theirs.train.images[rows])
        assert np.array_equal(ours.train.labels[rows], theirs.train.labels[rows])
    for part in ("validation", "test_known", "test_unknown"):
        for one, other in zip(getattr(ours, part), getattr(theirs, part), strict=True):
            assert np.array_equal(one, other)


def test_stream_of_a_prepared_set_gives_the_batches_of_the_array(sets):
    file, data_dir = sets
    images, labels = open_source(f"npz:{file}").splits["train"]
    elements = element_sequence("fashion_mnist", "train", data_dir=data_dir)
    assert len(elements) == 120
    known = np.flatnonzero(np.isin(labels, (0, 4, 7)))
    batches = stream(elements, 8, seed=2, process_index=0, process_count=1, rows=known)
    numbers = batch_indices(len(known), 8, seed=2)
    for step in (0, 4, 17):
        rows = known[numbers[step]]
        assert np.array_equal(batches[step]["image"], images[rows])
        assert np.array_equal(batches[step]["label"], labels[rows])
    part = element_sequence("fashion_mnist", "train[:10%]", data_dir=data_dir)
    assert [int(part[i]["label"]) for i in range(len(part))] == labels[:12].tolist()


def test_the_newest_version_is_read(sets, tmp_path):
    for version in ("1.0.0", "10.0.0", "9.1.0", "incomplete.X_11.0.0"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").write_text("{}")
    (tmp_path / "mnist" / "12.0.0").mkdir()  # unfinished
    found = [folder.name for folder in prepared_versions("mnist", tmp_path)]
    assert found == ["1.0.0", "9.1.0", "10.0.0"]


def test_missing_sets_name_the_command_without_touching_the_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in PREPARED_SETS:
        with pytest.raises(MissingDataError) as caught:
            open_source(name, data_dir=tmp_path)
        message = str(caught.value)
        assert f"--name {name} --data-dir {tmp_path}" in message
        assert "\n" not in message
        with pytest.raises(MissingDataError):
            element_sequence(name, "train", data_dir=tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(MissingDataError, match=r"elsewhere.*tfds.builder\('cifar10'.*array_record"):
        open_source("cifar10")


def test_default_data_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert default_data_dir().name == "tensorflow_datasets"


def test_a_set_that_only_tensorflow_reads_is_refused(sets, tmp_path):
    shutil.copytree(sets[1] / "fashion_mnist", tmp_path / "fashion_mnist")
    info = tmp_path / "fashion_mnist" / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    content["fileFormat"] = "tfrecord"
    info.write_text(json.dumps(content).replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="tfrecord, which only TensorFlow reads: remove it, then pip"):
        open_source("fashion_mnist", data_dir=tmp_path)


def test_a_prepared_set_under_a_wrong_name_is_refused(sets, tmp_path):
    shutil.copytree(sets[1] / "fashion_mnist", tmp_path / "cifar100")
    with pytest.raises(ValueError, match="has 10 classes, but cifar100 has 100"):
        open_source("cifar100", data_dir=tmp_path)
    shutil.copytree(sets[1] / "fashion_mnist", tmp_path / "tiny_imagenet")
    with pytest.raises(ValueError, match="TinyImageNet's 200 wnids"):
        open_source("tiny_imagenet", data_dir=tmp_path)


def test_without_tensorflow_datasets_the_remedy_is_named(sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(
        ValueError,
        match=r"is a prepared set, and .*tensorflow_datasets.*: pip install tensorflow-datasets array_record",
    ):
        open_source("fashion_mnist", data_dir=sets[1])
    with pytest.raises(
        SystemExit,
        match=r"^prepare: .*tensorflow_datasets.*: pip install tensorflow-datasets array_record importlib_resources$",
    ):
        plain_module(prepare)


STRANGE = {
    "names a foreign class 'evil_features.Image'": ("features.json", "tensorflow_datasets.core.features.image_feature"),
    "names a file elsewhere, ": ("dataset_info.json", "{DATASET}-{SPLIT}"),
}


@pytest.mark.parametrize("message", STRANGE)
def test_a_prepared_set_neither_imports_a_module_nor_reads_elsewhere(message, sets, tmp_path, monkeypatch):
    name, there = STRANGE[message]
    shutil.copytree(sets[1] / "fashion_mnist", tmp_path / "fashion_mnist")
    (tmp_path / "evil_features.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "fashion_mnist" / "1.0.0" / name
    content = file.read_text()
    assert there in content
    file.write_text(content.replace(there, {"features.json": "evil_features"}.get(name, f"../{there}")))
    with pytest.raises(ValueError, match=message):
        open_source("fashion_mnist", data_dir=tmp_path)


class Records(list):
    """Records as TensorFlow Datasets gives them."""

    def __getitems__(self, rows):
        return [self[row] for row in rows]


def test_a_damaged_record_is_named(sets):
    whole = element_sequence("fashion_mnist", "test", data_dir=sets[1])._data_source[0]
    records = Records([whole, {**whole, "image": whole["image"][:-20]}])
    elements = Elements(records, 1, name="mnist test")
    assert elements[0]["image"].shape == (28, 28, 1)
    for read in (elements.stacked, lambda: elements[1]):
        with pytest.raises(ValueError, match="mnist test: record 1: cannot be read as an image: "):
            read()
    with pytest.raises(ValueError, match=r"mnist test cannot be read, .*\(list index out of range\): remove the set"):
        elements[2]


def test_unknown_split_of_a_prepared_set_lists_the_splits(sets):
    with pytest.raises(ValueError, match=r"split='extra'.*it has test, train"):
        element_sequence("fashion_mnist", "extra", data_dir=sets[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "imagenet"], "name='imagenet' is unknown: choose one of mnist"),
        (["--name", "cifar100"], "has 10 classes, but cifar100 has 100"),
        (["--name", "cifar10"], r"shape \(28, 28, 1\), but those of cifar10 have \(32, 32, 3\)"),
        (["--name", "fashion_mnist"], "already prepared: remove it"),
        (["--name", "mnist", "--idx", "x"], "exactly one of --npz, --idx and --tiny-imagenet"),
    ],
)
def test_prepare_refuses_bad_input_with_exit_code_2(sets, monkeypatch, capsys, options, message):
    file, data_dir = sets
    command = ["prepare", "--npz", str(file), "--data-dir", str(data_dir), *options]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        prepare.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_prepare_refuses_idx_files_of_another_set(monkeypatch, capsys, tmp_path):
    command = ["prepare", "--idx", str(tmp_path), "--name", "cifar10", "--data-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        prepare.main()
    assert "--idx holds mnist or fashion_mnist" in capsys.readouterr().err


def test_prepare_without_write_permission_is_one_line(sets, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "tfds"
    command = ["--npz", str(sets[0]), "--name", "fashion_mnist", "--data-dir", str(target)]
    monkeypatch.setattr(sys, "argv", ["prepare", *command])
    with pytest.raises(SystemExit) as caught:
        prepare.main()
    assert caught.value.code == 2
    assert "cannot be written to" in capsys.readouterr().err
