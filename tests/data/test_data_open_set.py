import dataclasses

import numpy as np
import pytest
from conftest import plain_module

from osrjax.data import Examples, Source, open_set, open_set_data, open_source, pseudo_unknown_data
from osrjax.data.splits import ClassSplit, class_split, custom_split


def made_up(name, classes=6, train=20, test=8, shape=(4, 4, 1), part="test"):
    """A source whose image says which split, class and example it is, in its first three pixels."""

    def examples(code, count):
        labels = np.tile(np.arange(classes, dtype=np.int32), count)
        images = np.zeros((len(labels), *shape), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 1, 0] = code, labels
        images[:, 0, 2, 0] = np.repeat(np.arange(count), classes)
        return Examples(images, labels)

    return Source(
        name=name,
        provenance="made up",
        complete=True,
        class_names=tuple(f"class {i}" for i in range(classes)),
        splits={"train": examples(1, train), part: examples(2, test)},
    )


SOURCE = made_up("npz:x")
SPLIT = custom_split([4, 0, 5], [1, 3], 6)


def identity(examples):
    return [tuple(int(v) for v in image[0, :3, 0]) for image in examples.images]


def test_parts_hold_the_right_images():
    data = open_set_data(SOURCE, SPLIT, validation_share=0.25, seed=0)
    known = {(1, c, i) for c in (4, 0, 5) for i in range(20)}
    train, validation = set(identity(data.train)), set(identity(data.validation))
    assert train | validation == known
    assert not train & validation
    assert set(identity(data.test_known)) == {(2, c, i) for c in (4, 0, 5) for i in range(8)}
    assert set(identity(data.test_unknown)) == {(2, c, i) for c in (1, 3) for i in range(8)}
    # A known label is the position in the known list; an unknown one the original id.
    for part in (data.train, data.validation, data.test_known):
        assert [(4, 0, 5)[label] for label in part.labels] == [i[1] for i in identity(part)]
        assert part.labels.dtype == np.int32
    assert data.test_unknown.labels.tolist() == [i[1] for i in identity(data.test_unknown)]
    assert np.bincount(data.validation.labels).tolist() == [5, 5, 5]
    assert data.known_classes == (4, 0, 5)
    assert data.unknown_classes == (1, 3)
    assert data.known_names == ("class 4", "class 0", "class 5")
    assert data.unknown_names == ("class 1", "class 3")
    assert data.sources == (("npz:x", "made up", True),)


def test_validation_depends_on_seed_and_class_alone():
    one = open_set_data(SOURCE, SPLIT, seed=0)
    again = open_set_data(SOURCE, SPLIT, seed=0)
    assert identity(one.validation) == identity(again.validation)
    assert identity(one.validation) != identity(open_set_data(SOURCE, SPLIT, seed=1).validation)
    other = open_set_data(SOURCE, custom_split([2, 5], [0], 6), seed=0)
    of_five = [{i for i in identity(d.validation) if i[1] == 5} for d in (one, other)]
    assert of_five[0] == of_five[1]


def test_two_sources():
    other = made_up("npz:y", classes=9)
    split = custom_split([0, 1], [1, 8], 6, unknown_num_classes=9)
    data = open_set_data(SOURCE, split, seed=0, unknown_source=other)
    assert set(data.test_unknown.labels.tolist()) == {1, 8}
    assert [name for name, _, _ in data.sources] == ["npz:x", "npz:y"]
    assert data.unknown_names == ("class 1", "class 8")


def test_cifar_plus_n_takes_known_from_cifar10_and_unknown_from_cifar100():
    cifar10 = made_up("cifar10", classes=10, shape=(4, 4, 3))
    cifar100 = made_up("cifar100", classes=100, shape=(4, 4, 3), train=1, test=2)
    split = class_split("split_2020", "cifar+10", 0)
    data = open_set_data(cifar10, split, seed=0, unknown_source=cifar100)
    assert data.known_classes == (4, 7, 9, 1)
    assert len(data.test_unknown.labels) == 20
    assert data.unknown_classes == split.unknown
    with pytest.raises(ValueError, match="two_sets=True: give a second data set"):
        open_set_data(cifar10, split, seed=0)
    with pytest.raises(ValueError, match="needs the 100 classes of cifar100, not cifar10"):
        open_set_data(
            cifar10,
            dataclasses.replace(split, unknown=tuple(range(9))),
            seed=0,
            unknown_source=cifar10,
        )


def test_another_part_of_the_unknown_source():
    other = made_up("npz:y", part="letters")
    split = custom_split([0], [1], 6, unknown_num_classes=6)
    data = open_set_data(SOURCE, split, seed=0, unknown_source=other, unknown_part="letters")
    assert len(data.test_unknown.labels) == 8
    with pytest.raises(ValueError, match="split='test' does not exist in npz:y: it has train, letters"):
        open_set_data(SOURCE, split, seed=0, unknown_source=other)


def test_pseudo_unknowns_come_from_validation_alone():
    data = open_set_data(SOURCE, SPLIT, validation_share=0.25, seed=0)
    pseudo = pseudo_unknown_data(data, [1])
    assert pseudo.known_classes == (4, 5)
    assert pseudo.unknown_classes == (0,)
    assert pseudo.known_names == ("class 4", "class 5")
    assert pseudo.unknown_names == ("class 0",)
    validation = identity(data.validation)
    assert identity(pseudo.test_known) == [i for i in validation if i[1] != 0]
    assert identity(pseudo.test_unknown) == [i for i in validation if i[1] == 0]
    assert identity(pseudo.train) == [i for i in identity(data.train) if i[1] != 0]
    assert identity(pseudo.validation) == identity(pseudo.test_known)
    for part in (pseudo.train, pseudo.test_known):
        assert [(4, 5)[label] for label in part.labels] == [i[1] for i in identity(part)]
    assert set(pseudo.test_unknown.labels.tolist()) == {0}


@pytest.mark.parametrize("held_out", [[], [0, 1, 2], [3], [-1], [1, 1]])
def test_pseudo_unknowns_need_a_class_on_either_side(held_out):
    data = open_set_data(SOURCE, SPLIT, seed=0)
    with pytest.raises(ValueError, match="some but not all positions 0 to 2"):
        pseudo_unknown_data(data, held_out)


@pytest.mark.parametrize("held_out", [np.array([True, False, False]), [1.0]])
def test_a_mask_is_no_list_of_positions(held_out):
    with pytest.raises(ValueError, match=r"held_out=.*: give whole numbers"):
        plain_module(open_set).pseudo_unknown_data(open_set_data(SOURCE, SPLIT, seed=0), held_out)


@pytest.mark.parametrize("kind", [bool, np.float32])
def test_a_source_whose_labels_are_no_integers_is_refused(kind):
    images, labels = SOURCE.splits["train"]
    wrong = dataclasses.replace(SOURCE, splits={**SOURCE.splits, "train": Examples(images, labels.astype(kind))})
    with pytest.raises(ValueError, match=f"npz:x train: labels have shape .* and dtype {kind.__name__}"):
        open_set_data(wrong, SPLIT, seed=0)


def without(source, split, label):
    examples = source.splits[split]
    kept = examples.labels != label
    return dataclasses.replace(
        source,
        splits={**source.splits, split: Examples(examples.images[kept], examples.labels[kept])},
    )


MNIST_SPLIT = class_split("neal", "mnist", 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: open_set_data(SOURCE, custom_split([0], [7], 9), seed=0), r"unknown classes \[7\]"),
        (lambda: open_set_data(SOURCE, SPLIT, validation_share=1.0, seed=0), "validation_share=1.0"),
        (lambda: open_set_data(SOURCE, SPLIT, validation_share=0.0, seed=0), "validation_share=0.0"),
        (
            lambda: open_set_data(SOURCE, SPLIT, validation_share=0.02, seed=0),
            "class 4 has 20 train images, too few",
        ),
        (
            lambda: open_set_data(SOURCE, SPLIT, validation_share=0.99, seed=0),
            "class 4 has 20 train images, too few",
        ),
        (
            lambda: open_set_data(without(SOURCE, "train", 5), SPLIT, seed=0),
            r"npz:x train has no images of classes \[5\]",
        ),
        (
            lambda: open_set_data(without(SOURCE, "test", 3), SPLIT, seed=0),
            r"npz:x test has no images of classes \[3\]",
        ),
        (
            lambda: open_set_data(made_up("npz:x", part="val"), SPLIT, seed=0),
            "split='test' does not exist in npz:x: it has train, val",
        ),
        (
            lambda: open_set_data(SOURCE, SPLIT, seed=0, unknown_source=SOURCE),
            "two_sets=False: give a second",
        ),
        (
            lambda: open_set_data(
                SOURCE,
                custom_split([0], [1], 6, unknown_num_classes=6),
                seed=0,
                unknown_source=made_up("npz:y", shape=(4, 4, 3)),
            ),
            r"shape \(4, 4, 3\), those of npz:x train \(4, 4, 1\)",
        ),
        # Ids of one data set on the images of another.
        (
            lambda: open_set_data(made_up("cifar10", classes=10), MNIST_SPLIT, seed=0),
            "neal/mnist needs the 10 classes of mnist, not cifar10",
        ),
        (
            lambda: open_set_data(made_up("npz:x", classes=26), MNIST_SPLIT, seed=0),
            "needs the 10 classes of mnist, not npz:x with 26",
        ),
        (  # folders 1 to 10: the list's id 0 would be folder 1
            lambda: open_set_data(
                dataclasses.replace(
                    made_up("folder:mnist", classes=10), class_names=tuple(str(i) for i in range(1, 11))
                ),
                MNIST_SPLIT,
                seed=0,
            ),
            "the classes of folder:mnist are named by other numbers: 0: 1, 1: 2, .*give their names",
        ),
        (
            lambda: open_set_data(made_up("npz:x", classes=200), class_split("neal", "tiny_imagenet", 0), seed=0),
            "sorted list of TinyImageNet's 200 wnids",
        ),
    ],
)
def test_errors_name_the_argument_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_default_task():
    data = open_set_data(open_source("fashion_mnist_small"), MNIST_SPLIT, seed=0)
    assert data.train.images.shape == (3240, 28, 28, 1)
    assert len(data.validation.labels) == 360
    assert len(data.test_known.labels) == 600
    assert len(data.test_unknown.labels) == 400
    assert data.known_names[0] == "T-shirt/top"


def test_a_random_split_fits_any_source():
    split = ClassSplit("random", "any", 0, (0, 1), (2,))
    data = open_set_data(open_source("digits"), split, seed=0)
    assert data.train.images.shape[1:] == (8, 8, 1)
