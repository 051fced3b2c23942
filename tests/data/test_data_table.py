"""The table of data sets: names stand once, and each set implies what fits its images."""

import dataclasses
import inspect

import pytest

from osrjax.data import DATA_SETS, PREPARED_SETS, SOURCES, DataConfig, choose_data, data_set, open_source, resolve_data
from osrjax.data.splits import FAMILIES, NUM_CLASSES, class_split, split_dataset
from osrjax.data.table import set_name


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    flip: bool | None = None
    crop_padding: int | None = None


@pytest.mark.parametrize(
    ("data", "flip", "crop_padding"),
    [
        ("fashion_mnist_small", True, 4),
        ("fashion_mnist", True, 4),
        ("digits", False, 1),
        ("mnist", False, 4),
        ("svhn_cropped", False, 4),
        ("cifar10", True, 4),
        ("cifar100", True, 4),
        ("tiny_imagenet", True, 8),
        ("npz:somewhere/mine.npz", True, 4),
        ("npz:somewhere/mnist.npz", False, 4),  # the name of a file says which set it holds
        ("folder:tiny_imagenet", True, 8),
    ],
)
def test_what_a_set_implies(data, flip, crop_padding):
    found = resolve_data(Config(data=data))
    assert (found.flip, found.crop_padding, found.data, found.unknown_data) == (flip, crop_padding, data, None)
    own = resolve_data(Config(data=data, flip=not flip, crop_padding=0))
    assert (own.flip, own.crop_padding) == (not flip, 0)
    assert resolve_data(found) == found


@pytest.mark.parametrize("name", ["cifar+10", "cifar+50"])
def test_a_pair_becomes_its_two_sets(name):
    found = resolve_data(Config(data=name))
    assert (found.data, found.unknown_data, found.dataset) == ("cifar10", "cifar100", name)
    assert (found.flip, found.crop_padding) == (True, 4)
    own = resolve_data(DataConfig(data=name, unknown_data="npz:mine.npz", dataset="cifar+10"))
    assert (own.data, own.unknown_data, own.dataset) == ("cifar10", "npz:mine.npz", "cifar+10")
    with pytest.raises(ValueError, match="is two sets, known classes of cifar10 and unknown ones of cifar100"):
        open_source(name)
    # As a name alone it asks for both sets; neither is prepared in an empty directory.
    with pytest.raises(ValueError, match="cifar10"):
        choose_data({"data": name, "data_dir": "nowhere"})


def test_a_configuration_without_data_is_left_as_it_is():
    @dataclasses.dataclass(frozen=True)
    class Other:
        flip: bool | None = None

    assert resolve_data(Other()) == Other()


def test_names_of_files():
    assert [set_name(data) for data in ("digits", "npz:a/b.c/svhn.npz", "folder:x/y")] == ["digits", "svhn", "y"]
    assert data_set("npz:svhn.npz") == data_set("npz:unheard-of.npz")


def test_the_table_names_what_the_rest_of_the_library_knows():
    assert set(SOURCES) - {"npz:PATH", "folder:PATH"} == {name for name, found in DATA_SETS.items() if not found.pair}
    assert set(PREPARED_SETS) == {name for name, found in DATA_SETS.items() if found.published}
    for name, found in DATA_SETS.items():
        assert split_dataset(name) == (found.class_lists or name)
        if found.class_lists is not None:
            assert class_split("neal", name, 0) == class_split("neal", found.class_lists, 0)
        if found.published is not None and split_dataset(name) in NUM_CLASSES:
            assert found.published.num_classes == NUM_CLASSES[split_dataset(name)][0]


def test_help_names_every_set_and_every_family():
    source = inspect.getsource(DataConfig.__mro__[1])
    assert [name for name in (*DATA_SETS, *FAMILIES, *NUM_CLASSES) if name not in source] == []
