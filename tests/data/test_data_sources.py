import gzip
import subprocess
import sys

import numpy as np
import pytest

from osrjax.data import Examples, MissingDataError, build_fashion_mnist_small as build_module, open_source
from osrjax.data.bundled import PATH, SHA256, examples_sha256
from osrjax.data.idx import FASHION_MNIST_CLASSES, idx_array, idx_source

HEAVY = ("jax", "grain", "sklearn", "tensorflow_datasets", "tensorflow")


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, osrjax.data; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# ---- bundled and scikit-learn


def test_bundled_images_are_the_pinned_ones():
    source = open_source("fashion_mnist_small")
    assert PATH.stat().st_size < 3_000_000
    assert PATH.with_name("FASHION_MNIST_LICENSE").is_file()
    assert source.class_names == FASHION_MNIST_CLASSES
    assert not source.complete
    for split, count in (("train", 600), ("test", 100)):
        images, labels = source.splits[split]
        assert images.shape == (10 * count, 28, 28, 1)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert np.bincount(labels).tolist() == [count] * 10
        assert examples_sha256(Examples(images, labels)) == SHA256[split]
        assert SHA256[split][:12] in source.provenance


def test_damaged_bundle_is_refused(monkeypatch):
    monkeypatch.setitem(SHA256, "test", "0" * 64)
    with pytest.raises(ValueError, match="install the package again"):
        _ = open_source("fashion_mnist_small").splits["test"]


def test_digits_are_scikit_learns_and_split_by_class():
    from sklearn.datasets import load_digits

    source = open_source("digits")
    train, test = source.splits["train"], source.splits["test"]
    assert train.images.shape == (1438, 8, 8, 1)
    assert test.images.shape == (359, 8, 8, 1)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert train.images.max() == 255
    # 16 grey levels: scaling and rounding lose nothing, and the two parts are all the images.
    levels = np.rint(np.concatenate([train.images, test.images])[..., 0] / (255 / 16))
    ours = sorted(map(bytes, levels.astype(np.uint8)))
    assert ours == sorted(map(bytes, load_digits().images.astype(np.uint8)))
    shares = np.bincount(test.labels) / np.bincount(load_digits().target)
    assert np.allclose(shares, 0.2, atol=0.003)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_folder(tmp_path, rng):
    """Four idx files with 30 train and 20 test images of ten classes."""
    arrays = {}
    for prefix, count in (("train", 30), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
        arrays[prefix] = images, labels
    return tmp_path, arrays


def test_builder_takes_the_first_of_each_class_and_is_deterministic(idx_folder, tmp_path, monkeypatch, capsys):
    folder, arrays = idx_folder
    monkeypatch.setattr(build_module, "PER_CLASS", {"train": 2, "test": 1})
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    monkeypatch.setattr(sys, "argv", ["build", "--from", str(folder), "--to", str(first)])
    build_module.main()
    digests = build_module.build(folder, second)
    assert first.read_bytes() == second.read_bytes()
    assert digests["train"] in capsys.readouterr().out
    images, labels = arrays["train"]
    rows = np.concatenate([np.flatnonzero(labels == label)[:2] for label in range(10)])
    train = open_source(f"npz:{first}").splits["train"]
    assert np.array_equal(train.images[..., 0], images[rows])
    assert np.array_equal(train.labels, labels[rows])
    assert examples_sha256(train) == digests["train"]


def test_builder_refuses_too_few_images(idx_folder, monkeypatch, capsys):
    folder, _ = idx_folder
    monkeypatch.setattr(build_module, "PER_CLASS", {"train": 4, "test": 1})
    monkeypatch.setattr(sys, "argv", ["build", "--from", str(folder), "--to", str(folder / "x")])
    with pytest.raises(SystemExit) as caught:
        build_module.main()
    assert caught.value.code == 2
    assert "fewer than 4 train images" in capsys.readouterr().err


def test_idx_files_that_are_missing_or_cut(idx_folder, tmp_path):
    folder, arrays = idx_folder
    source = idx_source(folder, name="mnist", class_names=FASHION_MNIST_CLASSES)
    assert np.array_equal(source.splits["test"].images[..., 0], arrays["t10k"][0])
    file = folder / "t10k-images-idx3-ubyte.gz"
    content = gzip.decompress(file.read_bytes())
    cut = tmp_path / "cut"
    cut.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="fetch it again"):
        idx_array(cut)
    for beginning in (b"", b"\x00\x00\x08", content[:4], content[:9]):
        cut.write_bytes(beginning)
        with pytest.raises(ValueError, match="not an idx file of unsigned bytes"):
            idx_array(cut)
    cut.write_bytes(b"\x00\x00\x0d" + content[3:])
    with pytest.raises(ValueError, match="not an idx file of unsigned bytes"):
        idx_array(cut)
    file.write_bytes(gzip.compress(content + bytes(2**22)))  # of which no more is unpacked than the header says
    with pytest.raises(ValueError, match=r"holds more than 15680 bytes of pixels, not a \(20, 28, 28\) array"):
        idx_array(file)
    file.write_bytes(gzip.compress(content[:4] + b"\xff" * 12 + content[16:]))
    with pytest.raises(ValueError, match="GiB, this machine has"):
        idx_array(file)
    write_idx(file, arrays["t10k"][0])
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be decompressed"):
        idx_array(file)
    file.unlink()
    with pytest.raises(MissingDataError, match="does not exist"):
        idx_source(folder, name="mnist", class_names=FASHION_MNIST_CLASSES)


# ---- names


@pytest.mark.parametrize("name", ["imagenet", "npz", "npz:", "http:x", "CIFAR10", ""])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ValueError, match="choose one of fashion_mnist_small, digits, mnist") as caught:
        open_source(name)
    assert not isinstance(caught.value, MissingDataError)


@pytest.mark.parametrize("name", ["npz:/no/such.npz", "folder:/no/such"])
def test_missing_files_say_what_to_give(name):
    with pytest.raises(MissingDataError, match=r"'/no/such.*does not exist: give"):
        open_source(name)
