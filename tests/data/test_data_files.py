import hashlib

import numpy as np
import pytest
from PIL import Image

from osrjax.data import Source, open_source
from osrjax.data.source import checked_examples, decoded_image
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
        ({"train_labels": np.eye(12)}, r"labels have shape \(12, 12\) and dtype float64"),
        ({"train_labels": np.arange(12) % 3 - 1}, "labels run from -1 to 1"),
        ({"train_labels": np.arange(12) % 4}, "labels run from 0 to 3.*3 classes.*0 to 2"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, rng, change, message):
    source = npz(tmp_path, **{**arrays_of(rng), "classes": np.array(["a", "b", "c"]), **change})
    with pytest.raises(ValueError, match=message) as caught:
        _ = source.splits["train"]
    assert "set.npz train" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"no array S_images.*\['x'\]"),
        ({"train_images": np.zeros((2, 4, 4), np.uint8)}, "no train_labels"),
        (
            {
                "train_images": np.zeros((2, 4, 4), np.uint8),
                "train_labels": np.zeros(2, int),
                "classes": np.array(["a", "a"]),
            },
            "each class name once",
        ),
        (
            {
                "train_images": np.zeros((2, 4, 4), np.uint8),
                "train_labels": np.array([{}, {}], dtype=object),
            },
            "train_labels cannot be read",
        ),
    ],
)
def test_npz_of_another_form_is_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as caught:
        npz(tmp_path, **arrays)
    assert "\n" not in str(caught.value)


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
    (tmp_path / ".hidden" / "x").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "readme.txt").write_text("no image")
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


def test_sixteen_bit_images_are_refused_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8-bit"):
        decoded_image(tmp_path / "deep.png", 1)


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


def test_tiny_imagenet_folder_with_other_classes_is_refused(tiny_folder):
    lines = (tiny_folder / "wnids.txt").read_text().splitlines()
    (tiny_folder / "wnids.txt").write_text("\n".join(["n09999999", *lines[1:]]))
    with pytest.raises(ValueError, match="TinyImageNet's 200 wnids"):
        tiny_imagenet_folder_source(tiny_folder)
    (tiny_folder / "wnids.txt").unlink()
    with pytest.raises(ValueError, match=r"wnids.txt does not exist"):
        tiny_imagenet_folder_source(tiny_folder)


def test_checked_examples_accepts_any_integer_width():
    images = np.zeros((2, 3, 3, 1), np.uint8)
    for dtype in (np.uint8, np.int64):
        examples = checked_examples(images, np.array([1, 0], dtype), num_classes=2, where="x")
        assert examples.labels.dtype == np.int32
