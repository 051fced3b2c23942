"""Which images these are: by pixels and labels, whatever the set is called and wherever it lies."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from osrjax.data import choose_data, content_of, image_digests, other_content, parts_sha256

FIELDS = {"known": [0, 1], "unknown": [2]}


@pytest.fixture
def arrays(rng):
    """Three classes of 8 training and 4 test images."""
    labels = {"train": np.repeat(np.arange(3), 8), "test": np.repeat(np.arange(3), 4)}
    images = {part: rng.integers(0, 256, (len(rows), 4, 4, 1), dtype=np.uint8) for part, rows in labels.items()}
    return {f"{part}_{kind}": found[part] for kind, found in (("images", images), ("labels", labels)) for part in found}


def content(data):
    split, found = choose_data({"data": str(data), **FIELDS})
    return json.loads(json.dumps(content_of(found, split)))


def test_checksums_are_those_of_the_pixels_and_the_labels(arrays, tmp_path):
    np.savez(tmp_path / "d.npz", **arrays)
    _, data = choose_data({"data": f"npz:{tmp_path}/d.npz", **FIELDS})
    found = parts_sha256(data)
    known = arrays["test_labels"] < 2
    by_hand = arrays["test_images"][known].tobytes() + arrays["test_labels"][known].astype("<i4").tobytes()
    assert found["test_known"] == hashlib.sha256(by_hand).hexdigest()
    assert found.keys() == {"train", "validation", "test_known", "test_unknown"}
    assert content(f"npz:{tmp_path}/d.npz")["sha256"] == found


@pytest.mark.parametrize("name", ["train_images", "test_images", "train_labels", "test_labels"])
def test_one_other_pixel_or_label_is_other_data(name, arrays, tmp_path):
    np.savez(tmp_path / "d.npz", **arrays)
    before = content(f"npz:{tmp_path}/d.npz")
    changed = arrays[name].copy()
    if name.endswith("images"):
        changed[0, 0, 0] ^= 1
    else:
        changed[[0, -5]] = changed[[-5, 0]]  # as many of each class
    np.savez(tmp_path / "d.npz", **arrays | {name: changed})
    assert other_content(before, content(f"npz:{tmp_path}/d.npz")) == ["sha256"]


def test_the_same_data_elsewhere_and_under_another_name_is_the_same(arrays, tmp_path):
    np.savez(tmp_path / "d.npz", **arrays)
    before = content(f"npz:{tmp_path}/d.npz")
    (tmp_path / "there").mkdir()
    np.savez_compressed(tmp_path / "there" / "e.npz", **arrays, note=np.array("packed otherwise"))
    now = content(f"npz:{tmp_path}/there/e.npz")
    assert before["sources"] != now["sources"]
    assert other_content(before, now) == []


def test_a_folder_whose_pixels_changed_or_that_moved(tmp_path):
    def write(level):
        for part in ("train", "test"):
            for label in range(3):
                (tmp_path / "f" / part / str(label)).mkdir(parents=True, exist_ok=True)
                for number in range(5):
                    image = Image.fromarray(np.full((4, 4), level + label, np.uint8))
                    image.save(tmp_path / "f" / part / str(label) / f"{number}.png")
        return content(f"folder:{tmp_path}/f")

    before = write(0)
    assert other_content(before, write(100)) == ["sha256"]
    write(0)
    shutil.move(tmp_path / "f", tmp_path / "g")
    assert other_content(before, content(f"folder:{tmp_path}/g")) == []


def test_what_an_earlier_version_did_not_remember_is_not_asked_for(arrays, tmp_path):
    np.savez(tmp_path / "d.npz", **arrays)
    now = content(f"npz:{tmp_path}/d.npz")
    earlier = {name: value for name, value in now.items() if name != "sha256"}
    moved = earlier | {"sources": [{**now["sources"][0], "name": "npz:elsewhere/d.npz"}]}
    for before in ({}, earlier, moved, {"starts": []}):
        assert other_content(before, now) == []
    # Then what the source said of itself decides: the checksum of the file.
    other = earlier | {"sources": [{**now["sources"][0], "provenance": "npz file d.npz, sha256 0"}]}
    assert other_content(other, now) == ["sources"]
    assert other_content({"split 0": other}, {"split 0": now}) == ["split 0"]
    assert other_content({"split 0": earlier}, {"split 0": now}) == []
    for damaged in (None, 3, "x", [], {}, [1]):
        assert other_content(earlier | {"sources": damaged}, now) == ["sources"]
        assert other_content(now | {"sha256": damaged}, now) == ["sha256"]


def test_images_are_told_apart_by_their_pixels(rng):
    images = rng.integers(0, 2, (200, 2, 2, 1), dtype=np.uint8)
    _, wanted = np.unique(images.reshape(200, -1), axis=0, return_inverse=True)
    digests = image_digests(images)
    assert all((digests[i] == digests[j]) == (wanted[i] == wanted[j]) for i in range(0, 200, 7) for j in range(200))
