"""Which files `osrjax predict` takes, and what it makes of them."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from osrjax.commands.predict import files_of, read_image


def test_files_of_systems_are_passed_over_and_others_are_said(tmp_path):
    for name in ("b.PNG", "a.jpg", "._a.jpg", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    assert files_of(tmp_path) == [tmp_path / "a.jpg", tmp_path / "b.PNG"]
    (tmp_path / "more").mkdir()
    (tmp_path / "c.tif").write_bytes(b"")
    with pytest.warns(UserWarning, match=re.escape(f"images={str(tmp_path)!r}: not read: 1 .tif, 1 folder")):
        assert len(files_of(tmp_path)) == 2


def test_an_image_is_read_as_training_reads_it(tmp_path):
    """A photograph of an upright camera, half transparent: turned, on white, brought to size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((4, 8, 4), np.uint8)
    pixels[:, 4:, 3] = 255  # black on the right, which is below
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", (8, 4, 1), resize=False)[:, 0, 0].tolist() == [255] * 4 + [0] * 4
    assert read_image(tmp_path / "a.png", (2, 4, 3), resize=True)[[0, 1], 0, 0].tolist() == pytest.approx(
        [255, 0], abs=40
    )
    with pytest.raises(ValueError, match="is 4x8 pixels, the run takes 8x4: resize it, or pass --resize"):
        read_image(tmp_path / "a.png", (4, 8, 1), resize=False)


def test_what_is_no_image_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=f"images='{tmp_path}' holds no image file: give files or a folder of images"):
        files_of(tmp_path)
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no image file but 1 .tif: give"):
        files_of(tmp_path)
    for name in ("nowhere.png", "x" * 300):
        with pytest.raises(ValueError, match="does not exist: give image files or folders of them"):
            files_of(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")
    for file in ("pipe.png", "/dev/zero"):
        with pytest.raises(ValueError, match="it is no regular file"):
            read_image(files_of(tmp_path / file)[0], (8, 8, 1), resize=True)
