import hashlib
import io
import os
import unicodedata
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from osrjax.data import Source, open_source
from osrjax.data.classes import class_counts
from osrjax.data.folders import natural_order
from osrjax.data.source import checked_examples
from osrjax.data.tiny_imagenet import tiny_imagenet_folder_source

# ---- npz files


def arrays_of(rng, train=12, test=6, classes=3, shape=(5, 4, 3)):
    return {
        "train_images": rng.integers(0, 256, (train, *shape)).astype(np.uint8),
        "train_labels": np.arange(train) % classes,
        "test_images": rng.integers(0, 256, (test, *shape)).astype(np.uint8),
        "test_labels": np.arange(test) % classes,
    }


def npz(path, **arrays):
    np.savez(path / "set.npz", **arrays)
    return open_source(f"npz:{path / 'set.npz'}")


def test_npz_gives_back_its_arrays(tmp_path, rng):
    arrays = arrays_of(rng)
    source = npz(tmp_path, **arrays, classes=np.array(["a", "b", "c"]), note=np.array("two\nlines"))
    assert isinstance(source, Source)
    for split in ("train", "test"):
        assert np.array_equal(source.splits[split].images, arrays[f"{split}_images"])
        assert np.array_equal(source.splits[split].labels, arrays[f"{split}_labels"])
        assert source.splits[split].labels.dtype == np.int32
        assert source.splits[split] is source.splits[split]  # decoded once
    assert source.class_names == ("a", "b", "c")
    assert source.complete
    assert source.provenance.endswith(": two lines")


def test_npz_without_classes_counts_the_labels_and_gray_gets_a_channel(tmp_path, rng):
    source = npz(tmp_path, **arrays_of(rng, shape=(5, 4)))
    assert source.class_names == ("0", "1", "2")
    assert source.splits["train"].images.shape == (12, 5, 4, 1)


def test_npz_with_val_alone_is_tested_on_it(tmp_path, rng):
    arrays = {k.replace("test", "val"): v for k, v in arrays_of(rng).items()}
    source = npz(tmp_path, **arrays)
    assert sorted(source.splits) == ["test", "train"]
    assert "its val split" in source.provenance
    both = npz(tmp_path, **{**arrays, **arrays_of(rng)})
    assert sorted(both.splits) == ["test", "train", "val"]


def test_npz_that_lacks_a_class_or_a_split_is_not_complete(tmp_path, rng):
    arrays = arrays_of(rng)
    assert not npz(tmp_path, test_images=arrays["test_images"], test_labels=[0, 1, 2] * 2).complete
    assert not npz(tmp_path, **{**arrays, "test_labels": np.array([0, 1] * 3)}).complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((12, 5, 4, 3), np.float32)}, "dtype float32.*uint8"),
        ({"train_images": np.zeros((12, 5, 4, 2), np.uint8)}, r"shape \(12, 5, 4, 2\)"),
        ({"train_images": np.zeros((12, 5), np.uint8)}, r"shape \(12, 5\)"),
        ({"train_images": np.zeros((11, 5, 4, 3), np.uint8)}, "11 images but 12 labels"),
        (
            {"train_images": np.zeros((0, 5, 4, 3), np.uint8), "train_labels": np.zeros(0, int)},
            "no images",
        ),
        ({"train_labels": np.eye(12)}, r"shape \(12, 12\) and dtype float64.*one-hot: give labels.argmax\(axis=1\)"),
        ({"train_labels": np.eye(3, dtype=np.uint8)[np.arange(12) % 3]}, r"one-hot: give labels.argmax\(axis=1\)"),
        ({"train_labels": np.arange(12)[:, None] % 3}, r"shape \(12, 1\).*use one integer an image, labels\[:, 0\]"),
        ({"train_labels": np.arange(12) % 3 / 1}, r"dtype float64: use one integer an image, labels.astype\(int\)"),
        ({"train_labels": np.arange(12) % 2 == 1}, "dtype bool: use one integer an image"),
        ({"train_labels": np.array(list("abcabcabcabc"))}, "dtype <U1: use one integer an image"),
        ({"train_labels": np.arange(12) % 3 - 1}, r"labels run from -1 to 1; labels\[0\]=-1 is none of the 3 classes"),
        (
            {"train_labels": np.arange(12) % 4},
            r"labels run from 0 to 3; labels\[3\]=3 is none of the 3 classes, which are 0 to 2: .*name all classes",
        ),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, rng, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        _ = npz(tmp_path, **{**arrays_of(rng), "classes": np.array(["a", "b", "c"]), **change}).splits["train"]
    assert "set.npz train" in str(caught.value)
    assert "\n" not in str(caught.value)


GOOD = {"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": np.zeros(2, int)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"no array S_images.*\['x'\]"),
        ({"train_images": GOOD["train_images"]}, "no train_labels"),
        ({**GOOD, "classes": np.array(["a", "a"])}, "each class name once"),
        ({**GOOD, "classes": np.array(["\u00e9", "e\u0301"])}, "each class name once"),
        ({**GOOD, "classes": np.array(["a", "\x1b[31m"])}, r"'\\x1b\[31m' is no name for a class"),
        ({**GOOD, "classes": np.array(["a", ""])}, "'' is no name for a class"),
        ({**GOOD, "classes": np.array([0, 1])}, "classes must be a 1-D array of strings"),
        ({**GOOD, "classes": np.array(["a", "b"], object)}, "classes holds Python objects: store it as an array of"),
        ({**GOOD, "train_labels": np.array([{}, {}], object)}, "train_labels holds Python objects"),
    ],
)
def test_npz_of_another_form_is_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as caught:
        npz(tmp_path, **arrays)
    assert "\n" not in str(caught.value)


def member(array, **header):
    """A .npy file, its header changed."""
    file, found = io.BytesIO(), np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, {**found, **header})
    return file.getvalue() + array.tobytes()


IMAGES = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (member(IMAGES, shape=(2**40, 4, 4)), "is not of the shape .1099511627776, 4, 4. that it says"),
        (member(IMAGES)[:-1], r"is not of the shape \(2, 4, 4\) that it says"),
        (member(IMAGES, descr="|O"), "holds Python objects"),
        (b"no array", "cannot be read, it is damaged: write the file again"),
        (b"\x93NUMPY\x01\x00\xff\x40" + b"(" * 16639, "cannot be read, it is damaged"),  # numpy: trust it
    ],
)
def test_arrays_that_are_not_what_they_say(tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("train_images.npy", content)
        archive.writestr("train_labels.npy", member(np.arange(2)))
    with pytest.raises(ValueError, match=f"set.npz: array train_images {message}") as caught:
        _ = open_source(f"npz:{tmp_path / 'set.npz'}").splits["train"]
    assert "\n" not in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_arrays_larger_than_the_memory_are_refused_before_they_are_read(tmp_path, rng, monkeypatch):
    source = npz(tmp_path, **arrays_of(rng))  # images of 720 and of 360 bytes
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 500}[name])
    assert len(source.splits["test"].images) == 6
    with pytest.raises(ValueError, match=r"array train_images: takes .* GiB, this machine has"):
        _ = source.splits["train"]


def test_the_labels_of_npz_files_and_folders_need_no_image(tmp_path, rng, monkeypatch):
    write_images(tmp_path / "train" / "a", rng.integers(0, 256, (3, 4, 4)).astype(np.uint8))
    sources = npz(tmp_path, **arrays_of(rng)), open_source(f"folder:{tmp_path}")
    monkeypatch.setattr("osrjax.data.npz_files.checked_examples", None)
    monkeypatch.setattr("osrjax.data.folders.checked_examples", None)
    found = [{split: n.tolist() for split, n in class_counts(source).items()} for source in sources]
    assert found == [{"train": [4, 4, 4], "test": [2, 2, 2]}, {"train": [3]}]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((4, 2, 2), np.uint8) * 7, "^set.npz: images hold the value 7 alone"),
        (np.arange(16, dtype=np.uint8).reshape(4, 2, 2) % 2, "^set.npz: images hold 0 and 1 alone, of 0 to 255"),
        (np.arange(10**6, dtype=np.uint32).astype(np.uint8).reshape(1, 10**3, 10**3), "have 1000x1000 pixels"),
    ],
)
def test_what_may_be_meant_but_seldom_is_warns_once(images, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for part in ("train", "test", "train"):
            examples = checked_examples(images, np.zeros(len(images), int), num_classes=1, where=f"set.npz {part}")
    assert np.array_equal(examples.images[..., 0], images)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=message):
        checked_examples(images, np.zeros(len(images), int), num_classes=1, where="set.npz train")


def test_npz_that_is_no_npz_is_refused(tmp_path, rng):
    file = tmp_path / "set.npz"
    for content in (b"", b"hello", b"PK\x03\x04 cut"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"not an \.npz file"):
            open_source(f"npz:{file}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        open_source(f"npz:{tmp_path / 'one.npy'}")


# ---- folders


def write_images(folder, images, suffix="png"):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.{suffix}")


def test_folder_of_images(tmp_path, rng):
    images = rng.integers(0, 256, (6, 7, 5, 3)).astype(np.uint8)
    write_images(tmp_path / "train" / "cat", images[:2])
    write_images(tmp_path / "train" / "ant", images[2:4])
    write_images(tmp_path / "test" / "cat", images[4:5])
    write_images(tmp_path / "test" / "ant", images[5:], "PNG")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("ant", "cat")
    assert sorted(source.splits) == ["test", "train"]
    assert source.complete
    train = source.splits["train"]
    assert np.array_equal(train.images, images[[2, 3, 0, 1]])
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(source.splits["test"].images, images[[5, 4]])


def test_folder_is_gray_only_if_every_file_is(tmp_path, rng):
    images = rng.integers(0, 256, (2, 7, 5)).astype(np.uint8)
    write_images(tmp_path / "train" / "a", images)
    source = open_source(f"folder:{tmp_path}")
    assert np.array_equal(source.splits["train"].images, images[..., None])
    assert not source.complete  # no test images
    write_images(tmp_path / "train" / "b", np.repeat(images[..., None], 3, axis=-1))
    mixed = open_source(f"folder:{tmp_path}").splits["train"].images
    assert np.array_equal(mixed, np.repeat(np.concatenate([images, images])[..., None], 3, axis=-1))


def test_folder_of_jpegs_reads_what_pillow_decodes(tmp_path):
    image = np.tile(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], (1, 16, 3))
    write_images(tmp_path / "train" / "a", [image], "jpg")
    decoded = open_source(f"folder:{tmp_path}").splits["train"].images[0]
    assert np.abs(decoded.astype(int) - image).max() < 10


def test_bad_folders_are_refused(tmp_path, rng):
    with pytest.raises(ValueError, match=r"no folders SPLIT/CLASS"):
        open_source(f"folder:{tmp_path}")
    images = rng.integers(0, 256, (2, 7, 5)).astype(np.uint8)
    write_images(tmp_path / "train" / "a", images)
    write_images(tmp_path / "train" / "b", images[:, :4])
    source = open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match=r"has size \(4, 5\).*bring all images to one size"):
        _ = source.splits["train"]
    (tmp_path / "train" / "c").mkdir()
    with pytest.raises(ValueError, match=r"no images in class folders \['c'\]"):
        open_source(f"folder:{tmp_path}")
    (tmp_path / "train" / "c" / "0.png").write_bytes(b"no png")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        open_source(f"folder:{tmp_path}")


@pytest.fixture
def pair(tmp_path, rng):
    """A folder of two classes with two images each, in train and in test."""
    for part in ("train", "test"):
        for name in "ab":
            write_images(tmp_path / part / name, rng.integers(0, 256, (2, 4, 4)).astype(np.uint8))
    return tmp_path


def test_files_of_systems_are_passed_over(pair):
    before = open_source(f"folder:{pair}")
    for place in (pair, pair / "train", pair / "train" / "a"):
        for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (place / name).write_bytes(b"\0\5\x16\7")
        for name in ("__MACOSX", ".hidden", "@eaDir", "lost+found"):
            (place / name / "a").mkdir(parents=True)
            (place / name / "a" / "0.png").write_bytes(b"\0\5\x16\7")
    after = open_source(f"folder:{pair}")
    assert (after.class_names, after.provenance, after.complete) == (("a", "b"), before.provenance, True)
    assert np.array_equal(after.splits["train"].images, before.splits["train"].images)


def test_what_is_not_read_is_counted_and_said(pair):
    (pair / "train" / "a" / "more").mkdir()
    (pair / "other").mkdir()
    for name in ("train/a/0.tif", "train/b/1.TIF", "test/labels.csv", "test/a/bare", "train/loose.png", "readme.md"):
        (pair / name).write_bytes(b"")
    counts = "1 .csv, 1 .png, 2 .tif, 2 folders, 1 without ending"  # readme.md lies outside of the splits
    with pytest.warns(
        UserWarning, match=f"{pair}: not read: {counts}; images are SPLIT/CLASS/NAME with .png, "
    ) as caught:
        source = open_source(f"folder:{pair}")
    assert len(caught) == 1
    assert source.provenance == f"image folder {pair}, 8 files, not read: {counts}"
    assert not source.complete
    assert len(source.splits["train"].labels) == 4


def test_numbers_in_class_names_are_ordered_by_value(tmp_path):
    order = ["1", "01", "2", "10", "a", "a2", "a10", "a10b", "b"]
    assert sorted(sorted(order), key=natural_order) == ["01", "1", *order[2:]]
    for name in order:
        write_images(tmp_path / "train" / name, [np.full((2, 2), ord(name[-1]), np.uint8)])
    source = open_source(f"folder:{tmp_path}")
    assert list(source.class_names) == ["01", "1", *order[2:]]
    levels = [ord(name[-1]) for name in source.class_names]
    assert source.splits["train"].images[:, 0, 0, 0][np.argsort(source.splits["train"].labels)].tolist() == levels


def test_accents_are_the_same_in_either_form(tmp_path, rng):
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    images = rng.integers(0, 256, (2, 4, 4)).astype(np.uint8)
    write_images(tmp_path / "train" / composed, images)
    write_images(tmp_path / "test" / apart, images)
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == (composed,)
    assert source.complete
    write_images(tmp_path / "train" / apart, images)
    with pytest.raises(
        ValueError, match=r"train: .*'caf\u00e9'.* more than once, spelt alike: use each class name once"
    ):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", os.fsdecode(b"\xff"), "a ", "a  b"])
def test_class_folders_that_cannot_be_typed_or_printed_are_refused(name, tmp_path):
    (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="is no name for a class: use words") as caught:
        open_source(f"folder:{tmp_path}")
    assert str(caught.value).isprintable()


def test_a_folder_with_val_alone_is_tested_on_it(pair):
    (pair / "test").rename(pair / "val")
    source = open_source(f"folder:{pair}")
    assert sorted(source.splits) == ["test", "train"]
    assert "its val split" in source.provenance
    assert source.complete


def test_a_pipe_among_the_images_is_refused(pair):
    os.mkfifo(pair / "train" / "a" / "2.png")
    with pytest.raises(ValueError, match=r"2\.png: .*no regular file; replace, convert or remove it"):
        open_source(f"folder:{pair}")


@pytest.mark.parametrize("kind", ["npz", "folder"])
@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "x" * 300, "a\0b"])
def test_paths_that_cannot_be(kind, path):
    with pytest.raises(ValueError, match="does not exist: give"):
        open_source(f"{kind}:{path}")


# ---- TinyImageNet's own folder


@pytest.fixture
def tiny_folder(tmp_path, rng, monkeypatch):
    """A folder of TinyImageNet's form with made-up wnids, images for three of the classes only."""
    wnids = [f"n{i:08d}" for i in range(200)]
    digest = hashlib.sha256("\n".join(wnids).encode()).hexdigest()
    monkeypatch.setattr("osrjax.data.splits._SORTED_WNIDS_SHA256", digest)
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    # Neither file is in sorted order, as in the real archive.
    (root / "wnids.txt").write_text("\n".join(rng.permutation(wnids)))
    (root / "words.txt").write_text("\n".join(f"{w}\tword {w}, other" for w in wnids[::-1]))
    annotations = []
    for number, label in enumerate((7, 3, 150)):
        gray = np.full((8, 8), 50 * number, np.uint8)
        write_images(root / "train" / wnids[label] / "images", [gray, gray], "JPEG")
        Image.fromarray(gray + 20).save(root / "val" / "images" / f"val_{number}.JPEG")
        annotations.append(f"val_{number}.JPEG\t{wnids[label]}\t0\t0\t7\t7")
    (root / "val" / "val_annotations.txt").write_text("\n".join(annotations))
    return root


def test_tiny_imagenet_folder(tiny_folder):
    source = open_source("tiny_imagenet", data_dir=tiny_folder.parent)
    assert source.name == "tiny_imagenet"
    assert not source.complete
    assert source.class_names[7] == "n00000007 word n00000007"
    train, test = source.splits["train"], source.splits["test"]
    assert train.labels.tolist() == [3, 3, 7, 7, 150, 150]
    assert test.labels.tolist() == [3, 7, 150]
    assert train.images.shape == (6, 8, 8, 3)  # gray files become RGB
    assert train.images[:, 0, 0, 0].tolist() == [50, 50, 0, 0, 100, 100]
    assert test.images[:, 0, 0, 0].tolist() == [70, 20, 120]


def test_tiny_imagenet_folder_passes_over_files_of_systems(tiny_folder):
    (tiny_folder / "train" / "n00000007" / "images" / "._0.JPEG").write_bytes(b"\0\5\x16\7")
    assert len(tiny_imagenet_folder_source(tiny_folder).splits["train"].labels) == 6


def test_tiny_imagenet_folder_with_other_classes_is_refused(tiny_folder):
    with (tiny_folder / "val" / "val_annotations.txt").open("a") as file:
        file.write("\ncut")
    with pytest.raises(ValueError, match=r"val_annotations.txt names an unknown class ''"):
        tiny_imagenet_folder_source(tiny_folder)
    for name in ("../../secret.JPEG", "/etc/secret.JPEG"):
        (tiny_folder / "val" / "val_annotations.txt").write_text(f"{name}\tn00000007\n")
        with pytest.raises(ValueError, match=f"names a file elsewhere, '{name}'"):
            tiny_imagenet_folder_source(tiny_folder)
    lines = (tiny_folder / "wnids.txt").read_text().splitlines()
    (tiny_folder / "wnids.txt").write_text("\n".join(["n09999999", *lines[1:]]))
    with pytest.raises(ValueError, match="TinyImageNet's 200 wnids"):
        tiny_imagenet_folder_source(tiny_folder)
    (tiny_folder / "wnids.txt").unlink()
    with pytest.raises(ValueError, match=r"wnids.txt does not exist"):
        tiny_imagenet_folder_source(tiny_folder)


def test_checked_examples_accepts_any_integer_width():
    images = np.arange(18, dtype=np.uint8).reshape(2, 3, 3, 1)
    for dtype in (np.uint8, np.int64):
        examples = checked_examples(images, np.array([1, 0], dtype), num_classes=2, where="x")
        assert examples.labels.dtype == np.int32
