import hashlib
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import plain_module

from osrjax.data import classes, splits

plain = plain_module(splits)
FILE = Path(splits.__file__).with_name("class_splits.json")
DATASETS = {family: tuple(table) for family, table in json.loads(FILE.read_text()).items() if family in splits.FAMILIES}


@pytest.mark.parametrize("family", splits.FAMILIES)
def test_every_split_of_a_family_divides_its_classes(family):
    for dataset in DATASETS[family]:
        known_count, unknown_count = splits.NUM_CLASSES[dataset]
        for index in range(5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # repeated splits have their own test
                split = splits.class_split(family, dataset, index)
            two_sets = dataset.startswith("cifar+")
            assert split.two_sets == two_sets
            splits.check_split(split, known_count, unknown_num_classes=unknown_count if two_sets else None)
            if two_sets:
                assert len(split.known) == 4
                assert len(split.unknown) == int(dataset.removeprefix("cifar+"))
            else:
                assert sorted(split.known + split.unknown) == list(range(known_count))
                assert len(split.known) == (20 if dataset == "tiny_imagenet" else 6)


def test_the_lists_are_the_published_ones():
    # Pins the file: a slip in one id would silently change a benchmark.
    digest = hashlib.sha256(json.dumps(json.loads(FILE.read_text()), sort_keys=True).encode()).hexdigest()
    assert digest == "abdbeb9f1d4df00a20197622f47c186e7f6abc00211068e253d77a2ed8802139"
    assert splits.class_split("neal", "cifar10", 0).known == (0, 1, 2, 4, 5, 9)
    assert splits.class_split("split_2020", "mnist", 0).known == (2, 4, 5, 9, 8, 3)


@pytest.mark.parametrize(
    ("family", "dataset", "index", "twins"),
    [
        ("split_2020", "cifar10", 0, "[0, 1]"),
        ("split_2020", "cifar10", 1, "[0, 1]"),
        ("split_2020", "svhn_cropped", 0, "[0, 1]"),
        ("split_2020", "cifar+10", 2, "[1, 2]"),
        ("neal", "cifar+50", 3, "[0, 1, 2, 3, 4]"),
    ],
)
def test_repeated_splits_warn(family, dataset, index, twins):
    with pytest.warns(UserWarning, match="same known classes") as caught:
        splits.class_split(family, dataset, index)
    assert len(caught) == 1
    assert twins in str(caught[0].message)


def test_splits_that_differ_do_not_warn():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for index in range(5):
            splits.class_split("neal", "mnist", index)
        splits.class_split("split_2020", "cifar10", 2)
    assert not caught


def test_fashion_mnist_uses_the_mnist_ids():
    mnist = splits.class_split("neal", "mnist", 2)
    for name in ("fashion_mnist", "fashion_mnist_small", "digits"):
        assert splits.class_split("neal", name, 2) == mnist


def test_openness_of_the_customary_tasks():
    # 1 - sqrt(2K / (2K + U)) by hand: 12/16, 8/18, 8/58, 40/220.
    table = [(6, 4, 0.1340), (4, 10, 1 / 3), (4, 50, 0.6286), (20, 180, 0.5736)]
    for known, unknown, expected in table:
        assert splits.openness(known, unknown) == pytest.approx(expected, abs=5e-5)
    assert splits.openness(6, 0) == 0.0


def test_random_splits_are_reproducible_and_differ_by_seed():
    first = splits.random_split(200, num_known=20, seed=7)
    assert first == splits.random_split(200, num_known=20, seed=7)
    assert set(first.known) != set(splits.random_split(200, num_known=20, seed=8).known)
    assert sorted(first.known + first.unknown) == list(range(200))
    assert (first.family, first.index) == ("random", 7)


@pytest.mark.parametrize("target", [0.05, 0.134, 0.3, 0.5, 0.9])
def test_random_split_takes_the_nearest_openness(target):
    split = splits.random_split(10, openness=target, seed=0)
    distance = [abs(1 - math.sqrt(2 * k / (10 + k)) - target) for k in range(1, 10)]
    assert len(split.known) == 1 + int(np.argmin(distance))
    split = splits.random_split(30, num_known=6, openness=target, seed=0)
    distance = [abs(1 - math.sqrt(12 / (12 + u)) - target) for u in range(1, 25)]
    assert len(split.known) == 6
    assert len(split.unknown) == 1 + int(np.argmin(distance))


def test_custom_split_of_two_sets_may_share_numbers():
    split = splits.custom_split(range(10), range(10), 10, unknown_num_classes=10)
    assert split.two_sets
    assert split.known == split.unknown == tuple(range(10))


def test_numbers_of_any_kind_become_those_that_json_holds():
    split = splits.custom_split(np.array([3, 1], np.uint8), np.arange(4, 6), 6)
    assert json.dumps([split.known, split.unknown]) == "[[3, 1], [4, 5]]"


NAMES = ("cat", "caf\u00e9", "dog")


@pytest.mark.parametrize(
    ("words", "names", "ids"),
    [
        (["dog", "cat"], NAMES, (2, 0)),
        (["dog", 0, 1], NAMES, (2, 0, 1)),
        (["cafe\u0301"], NAMES, (1,)),  # the accent by itself
        ([np.int64(2)], NAMES, (2,)),
        (["1", 0], ["0", "1"], (1, 0)),
        (["02"], ["01", "02"], (1,)),
        ([7], NAMES, (7,)),  # whether it exists is the split's to say
    ],
)
def test_classes_by_name_and_by_id(words, names, ids):
    assert classes.class_ids(words, names, argument="known") == ids


def test_numbers_mean_names_where_ids_are_others_and_a_warning_maps_them():
    with pytest.warns(UserWarning, match=r"^known: numbers are taken for names .*: 2 is id 1, 10 is id 2$"):
        assert classes.class_ids([2, 10], ["1", "2", "10"], argument="known") == (1, 2)
    with pytest.warns(UserWarning, match=r"02 is id 1$"):
        assert classes.class_ids([2], ["01", "02"], argument="known") == (1,)


def test_tiny_imagenet_order_is_refused_when_it_differs():
    with pytest.raises(ValueError, match="sorted list of TinyImageNet's 200 wnids"):
        splits.check_tiny_imagenet_order([f"n{i:08d} word" for i in range(200)])


def test_tiny_imagenet_order_hashes_the_wnids_alone(monkeypatch):
    wnids = [f"n{i:08d}" for i in range(200)]
    digest = hashlib.sha256("\n".join(wnids).encode()).hexdigest()
    monkeypatch.setattr(splits, "_SORTED_WNIDS_SHA256", digest)
    splits.check_tiny_imagenet_order(wnids)
    splits.check_tiny_imagenet_order([f"{wnid} some words, more" for wnid in wnids])
    with pytest.raises(ValueError, match="sorted wnid order"):
        splits.check_tiny_imagenet_order([wnids[1], wnids[0], *wnids[2:]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: splits.class_split("arpl", "mnist", 0), "family='arpl'.*split_2020, neal"),
        (lambda: splits.class_split("cssr", "mnist", 0), "no 'mnist': it has svhn, cifar10"),
        (lambda: splits.class_split("neal", "mnist", 5), "index=5.*splits 0 to 4"),
        (lambda: splits.class_split("neal", "mnist", -1), "index=-1.*splits 0 to 4"),
        (lambda: splits.custom_split([0, 1], [1, 2], 5), r"share \[1\]"),
        (lambda: splits.custom_split([0, 1, 0], [2], 5), r"repeats \[0\]"),
        (lambda: splits.custom_split([], [2], 5), "known=.* names no class"),
        (lambda: splits.custom_split([1], [], 5), "unknown=.* names no class"),
        (lambda: splits.custom_split([1], [-2], 5), r"unknown classes \[-2\].*ids 0 to 4"),
        (lambda: plain.custom_split(np.array([True, False]), [2], 5), "known=.* holds .*True.*: give whole numbers"),
        (lambda: plain.custom_split([1], [2.0], 5), r"unknown=\[2.0\] holds 2.0: give whole numbers"),
        (
            lambda: classes.class_ids(["eel"], NAMES, argument="known"),
            "known='eel' is no class: choose from 0: cat, 1",
        ),
        (lambda: plain_module(classes).class_ids([1.0], NAMES, argument="known"), "known=.* holds 1.0"),
        (lambda: plain_module(classes).class_ids([True], NAMES, argument="known"), "known=.* holds True"),
        (
            lambda: classes.class_ids([0], ["1", "2"], argument="known"),
            "known=0 is the name of no class: give names, since some classes are named by numbers, of 1, 2",
        ),
        (
            lambda: classes.class_ids([1], ["01", "1"], argument="known"),
            "known=1 names 2 classes: choose from 0: 01, 1: 1",
        ),
        (lambda: splits.custom_split([1], [5, 9], 5), r"unknown classes \[5, 9\].*ids 0 to 4"),
        (
            lambda: splits.custom_split([1], [12], 20, unknown_num_classes=10),
            r"unknown classes \[12\].*ids 0 to 9",
        ),
        (lambda: splits.random_split(10, seed=0), "give at least one"),
        (lambda: splits.nested_split(-1, 2), "order=-1 is negative"),
        (lambda: splits.nested_split(0, 9), "num_known=9.*1 to 8"),
        (lambda: splits.random_split(10, num_known=10, seed=0), "num_known=10.*1 to 9"),
        (lambda: splits.random_split(10, openness=1.0, seed=0), "openness=1.0"),
        (lambda: splits.openness(0, 1), "known=0"),
        (
            lambda: splits.check_split(splits.ClassSplit("a", "b", 0, (0,), (0,), True), 10),
            "two_sets=True",
        ),
    ],
)
def test_errors_name_the_argument_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
