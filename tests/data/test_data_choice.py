"""From data fields to split and images; each kind of choice against what its parts give."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import load_script

from osrjax.data import (
    DataConfig,
    choose_data,
    content_of,
    describe_data,
    open_set_data,
    open_source,
    resolve_data,
    splits,
)
from osrjax.data.splits import class_split


def test_defaults_are_those_of_the_main_job():
    split, data = choose_data({"data": "digits"})
    assert split == class_split("neal", "digits", 0)
    source = open_source("digits")
    wanted = open_set_data(source, split, validation_share=0.1, seed=0)
    for part in ("train", "validation", "test_known", "test_unknown"):
        for found, expected in zip(getattr(data, part), getattr(wanted, part), strict=True):
            assert np.array_equal(found, expected)
    assert DataConfig().validation_share == 0.1
    with pytest.raises(dataclasses.FrozenInstanceError):
        DataConfig().split = 1


@pytest.mark.parametrize(
    ("fields", "known", "unknown"),
    [
        ({"known": (3, 1), "unknown": (0,)}, (3, 1), (0,)),
        ({"known": [3, 1]}, (3, 1), (0, 2, 4, 5, 6, 7, 8, 9)),  # lists, as config.json has them
        ({"family": "neal", "split": 2}, *((s := class_split("neal", "digits", 2)).known, s.unknown)),
        (
            {"family": "random", "split": 5, "openness": 0.2},
            *((s := splits.random_split(10, openness=0.2, seed=5)).known, s.unknown),
        ),
    ],
)
def test_classes_of_a_choice(fields, known, unknown):
    split, data = choose_data({"data": "digits", "a_field_of_training": 3, **fields})
    assert split.known == data.known_classes == known
    assert set(split.unknown) == set(data.unknown_classes) == set(unknown)


def test_unknown_classes_of_a_second_set(tmp_path):
    rows = np.arange(40)
    parts = {"images": np.arange(2560, dtype=np.uint32).astype(np.uint8).reshape(40, 8, 8, 1), "labels": rows % 2}
    np.savez(tmp_path / "other.npz", **{f"{part}_{k}": v for part in ("train", "test") for k, v in parts.items()})
    fields = {"data": "digits", "unknown_data": f"npz:{tmp_path}/other.npz", "known": (0, 1)}
    split, data = choose_data(fields)
    assert (split.two_sets, split.unknown, len(data.test_unknown.labels)) == (True, (0, 1), 40)
    split, data = choose_data({**fields, "unknown": (1,)})
    assert (split.unknown, len(data.test_unknown.labels)) == ((1,), 20)
    # A file's class lists are those of the set that its name says.
    np.savez(
        tmp_path / "digits.npz",
        **{
            f"{part}_{kind}": getattr(examples, kind)
            for part, examples in ((p, open_source("digits").splits[p]) for p in ("train", "test"))
            for kind in ("images", "labels")
        },
    )
    assert choose_data({"data": f"npz:{tmp_path}/digits.npz"})[0] == class_split("neal", "digits", 0)


@pytest.fixture
def animals(tmp_path, rng):
    """An .npz file of five named classes."""
    names = ["cat", "dog", "eel", "fox", "gnu"]
    arrays = {
        f"{part}_{kind}": value
        for part, count in (("train", 20), ("test", 10))
        for kind, value in (
            ("images", rng.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)),
            ("labels", np.arange(count) % 5),
        )
    }
    np.savez(tmp_path / "animals.npz", **arrays, classes=np.array(names))
    return f"npz:{tmp_path}/animals.npz"


def test_classes_are_named(animals):
    fields = {"data": animals, "validation_share": 0.25}
    split, data = choose_data({**fields, "known": ["fox", "cat", "dog"], "unknown": ["eel"], "held_out": ["cat"]})
    assert (split.known, split.unknown) == ((3, 0, 1), (2,))
    assert (data.known_names, data.unknown_names) == (("fox", "dog"), ("cat",))
    same, _ = choose_data({**fields, "known": [3, 0, 1], "unknown": [2]})
    assert same == split
    # On a command line every word is a text; a number that JSON and older runs hold is one.
    assert resolve_data(DataConfig(known=("fox", "0", "-1", "01"))).known == ("fox", 0, -1, "01")
    other, _ = choose_data({"data": "digits", "unknown_data": animals, "known": [0, 1], "unknown": ["gnu"]})
    assert (other.known, other.unknown, other.two_sets) == ((0, 1), (4,), True)


def test_own_data_without_known_says_what_to_type(animals):
    with pytest.raises(ValueError, match="is of your own") as caught:
        choose_data({"data": animals})
    assert str(caught.value) == (
        f"data={animals!r} is of your own: name its known classes, such as --known cat dog, all others are unknown"
        " then; it has 0: cat (2 test, 4 train), 1: dog (2 test, 4 train), 2: eel (2 test, 4 train),"
        " 3: fox (2 test, 4 train), 4: gnu (2 test, 4 train) (--list-classes prints all)"
    )


def test_classes_are_listed(animals, capsys):
    assert load_script("train").main(["--data", animals, "--list-classes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [animals, "  id  test  train  name", "   0     2      4  cat"]
    assert len(lines) == 7
    assert load_script("train").main(["--data", "npz:nowhere.npz", "--list-classes"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_held_out_classes_play_unknown_and_test_images_are_left_alone():
    whole, data = choose_data({"data": "digits"})
    split, found = choose_data({"data": "digits", "held_out": [4, 9]})
    assert split == whole
    assert found.known_classes == (0, 1, 2, 5)
    assert set(found.unknown_classes) == {4, 9}
    assert len(found.test_known.labels) + len(found.test_unknown.labels) == len(data.validation.labels)
    assert np.array_equal(found.validation.images, found.test_known.images)


def test_the_words_and_the_content_of_a_choice():
    split, data = choose_data({"data": "digits"})
    assert describe_data(data, split) == (
        "neal split 0 of digits by the class ids of mnist; known: 0, 1, 2, 4, 5, 9; unknown: 3, 6, 7, 8;"
        " 778 training, 87 validation images"
    )
    content = json.loads(json.dumps(content_of(data, split)))
    assert content["split"] == {
        "family": "neal",
        "dataset": "mnist",  # whose classes the digits have
        "index": 0,
        "known": [0, 1, 2, 4, 5, 9],
        "unknown": [3, 6, 7, 8],
        "two_sets": False,
    }
    assert content["image_shape"] == [8, 8, 1]
    assert content["images"] == {
        part: len(getattr(data, part).labels) for part in ("train", "validation", "test_known", "test_unknown")
    }
    assert content["sources"][0]["complete"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name no data: give data"),
        ({"data": "digits", "split": -1}, "split=-1 must not be negative"),
        ({"data": "digits", "unknown": (3,)}, r"unknown=\[3\] without known"),
        ({"data": "digits", "held_out": (3,)}, r"held_out=\[3\] are not among the known classes \[0, 1, 2, 4, 5, 9\]"),
        ({"data": "digits", "validation_share": 1.0}, r"validation_share=1\.0"),
        ({"data": "digits", "family": "nael"}, "nael"),
        ({"data": "nothing"}, "nothing"),
        ({"data": "digits", "known": "01"}, "known='01' is no list: give names or ids of classes"),
        ({"data": "digits", "known": 3}, "known=3 is no list"),
        ({"data": "digits", "held_out": None}, "held_out=None is no list"),
        ({"data": "digits", "known": ["zero", "1"]}, "known='zero' is no class: choose from 0: 0, 1: 1"),
    ],
)
def test_bad_fields_name_the_field(fields, message):
    with pytest.raises(ValueError, match=message):
        choose_data(fields)


def test_unknown_data_with_classes_of_known_names_is_said(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1)).astype(np.uint8), np.arange(12) % 3
    arrays = {
        f"{part}_{name}": rows for part in ("train", "test") for name, rows in (("images", images), ("labels", labels))
    }
    for file, names in (("known", ["cat", "dog", "eel"]), ("unknown", ["dog", "fox", "cat"])):
        np.savez(tmp_path / f"{file}.npz", classes=names, **arrays)
    fields = {
        "data": f"npz:{tmp_path}/known.npz",
        "known": ["cat", "dog"],
        "unknown_data": f"npz:{tmp_path}/unknown.npz",
    }
    with pytest.warns(UserWarning, match="has classes of known names, cat, dog, which count as unknown"):
        choose_data({**fields, "validation_share": 0.3})
    _, data = choose_data({**fields, "validation_share": 0.3, "unknown": ["fox"]})  # a warning would be an error
    assert data.unknown_names == ("fox",)


def test_all_classes_known_leave_none_unknown():
    with pytest.raises(ValueError, match=r"known=\[0, .*9\] are all classes: leave one out, or give unknown_data"):
        choose_data({"data": "digits", "known": list(range(10))})
