"""What a viewer shows, worked out by hand, against the decoder; and what it refuses."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from osrjax.data.decoding import decoded_image, is_gray, stacked_images


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, depth, colour, rows, *extra, height=None):
    """A PNG file by the letter of its specification: colour 0 gray, 2 RGB, 3 palette, 4 gray + alpha, 6 RGBA."""
    head = struct.pack(">IIBBBBB", width, len(rows) if height is None else height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join((chunk(b"IHDR", head), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")))


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tagged(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Where the stored top left, top right, bottom left, bottom right (0, 1, 2, 3) are seen, by the table of the standard.
SEEN = {
    1: [[0, 1], [2, 3]],
    2: [[1, 0], [3, 2]],
    3: [[3, 2], [1, 0]],
    4: [[2, 3], [0, 1]],
    5: [[0, 2], [1, 3]],
    6: [[2, 0], [3, 1]],
    7: [[3, 1], [2, 0]],
    8: [[1, 3], [0, 2]],
}


@pytest.mark.parametrize("orientation", SEEN)
def test_pictures_are_upright(orientation, tmp_path):
    image = Image.fromarray(np.array([[0, 60], [120, 180]], np.uint8))
    expected = 60 * np.array(SEEN[orientation])
    assert np.array_equal(decoded_image(saved(image, "PNG", exif=tagged(orientation)), 1)[..., 0], expected)
    wide = image.resize((16, 32), Image.Resampling.NEAREST)  # each pixel is 16 x 8, a JPEG's blocks
    image.resize((32, 32), Image.Resampling.NEAREST).save(tmp_path / "a.jpg", exif=tagged(orientation), quality=100)
    found = decoded_image(tmp_path / "a.jpg", 3)[8::16, 8::16].astype(int)
    assert np.abs(found - expected[..., None]).max() <= 2
    turned = orientation >= 5
    assert decoded_image(saved(wide, "WEBP", exif=tagged(orientation)), 1).shape == (
        (16, 32, 1) if turned else (32, 16, 1)
    )


def test_an_unknown_orientation_is_as_stored():
    image = Image.fromarray(np.array([[0, 60], [120, 180]], np.uint8))
    assert decoded_image(saved(image, "PNG", exif=tagged(99)), 1)[..., 0].tolist() == [[0, 60], [120, 180]]


RED_ON_WHITE = [255, 127, 127]  # 255 - 128 of green and blue are white's
TRANSPARENT = {
    # alpha 0 is white, 128 is half way to white: 100 * 128 / 255 + 255 * 127 / 255 = 177.2
    "gray + alpha": (png(3, 8, 4, [[100, 0, 100, 128, 100, 255]]), [255, 177, 100]),
    "RGBA": (png(2, 8, 6, [[9, 9, 9, 0, 255, 0, 0, 128]]), [[255] * 3, RED_ON_WHITE]),
    "gray, one value": (png(3, 8, 0, [[0, 5, 200]], chunk(b"tRNS", b"\0\5")), [0, 255, 200]),
    "gray of 4 bits": (png(4, 4, 0, [[0x05, 0xAF]], chunk(b"tRNS", b"\0\5")), [0, 255, 170, 255]),
    "gray of 2 bits": (png(4, 2, 0, [[0b00011011]], chunk(b"tRNS", b"\0\1")), [0, 255, 170, 255]),
    "gray of 1 bit": (png(3, 1, 0, [[0b01000000]], chunk(b"tRNS", b"\0\0")), [255, 255, 255]),
    "RGB, one colour": (
        png(2, 8, 2, [[1, 2, 3, 4, 5, 6]], chunk(b"tRNS", b"\0\1\0\2\0\3")),
        [[255] * 3, [4, 5, 6]],
    ),
    "palette": (
        png(3, 8, 3, [[0, 1, 2]], chunk(b"PLTE", bytes([9, 9, 9, 255, 0, 0, 7, 8, 9])), chunk(b"tRNS", b"\0\x80")),
        [[255] * 3, RED_ON_WHITE, [7, 8, 9]],
    ),
    "palette, one entry": (
        png(2, 8, 3, [[0, 1]], chunk(b"PLTE", bytes([9, 9, 9, 7, 8, 9])), chunk(b"tRNS", b"\0")),
        [[255] * 3, [7, 8, 9]],
    ),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pixels_lie_on_white(name):
    data, expected = TRANSPARENT[name]
    channels = np.ndim(expected[0]) * 2 + 1
    found = decoded_image(data, channels)
    assert found.shape == (1, len(expected), channels)
    assert np.abs(found[0].astype(int) - np.reshape(expected, (-1, channels))).max() <= 1
    assert np.abs(found[0, 0].astype(int) - np.ravel(expected[0])).max() == 0  # what is hidden leaves no trace


def test_opaque_pixels_are_untouched(rng):
    pixels = rng.integers(0, 256, (5, 4, 4)).astype(np.uint8)
    pixels[..., 3] = 255
    assert np.array_equal(decoded_image(saved(Image.fromarray(pixels), "PNG"), 3), pixels[..., :3])
    assert np.array_equal(decoded_image(saved(Image.fromarray(pixels[..., 0]), "PNG"), 1), pixels[..., :1])
    assert np.array_equal(decoded_image(saved(Image.fromarray(pixels[..., :3]), "BMP"), 3), pixels[..., :3])
    assert np.array_equal(decoded_image(saved(Image.fromarray(pixels), "WEBP", lossless=True), 3), pixels[..., :3])


def test_the_photograph_of_several_pictures_is_read(tmp_path):
    """A telephone keeps a depth map, or a second exposure, behind the photograph."""
    photo, second = (Image.new("L", (8, 8), value) for value in (50, 200))
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert np.abs(decoded_image(tmp_path / "a.jpg", 1).astype(int) - 50).max() <= 2


RGB = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
FRAMES = {"save_all": True, "append_images": [RGB.transpose(Image.Transpose.ROTATE_90)]}
WHOLE = saved(RGB, "PNG")
FLIPPED = WHOLE[:60] + bytes([WHOLE[60] ^ 1]) + WHOLE[61:]  # a bit of the pixels, which decodes to others
REFUSED = {
    "CMYK": (saved(RGB.convert("CMYK"), "JPEG"), "mode 'CMYK' does not hold 8-bit gray or RGB: convert it"),
    "16 bits, gray": (png(1, 16, 0, [[1, 2]]), "does not hold 8-bit gray or RGB"),
    "16 bits, gray + alpha": (png(1, 16, 4, [[1, 2, 3, 4]]), "16 bits a channel.*scale it to 0 to 255"),
    "16 bits, RGB": (png(1, 16, 2, [[1, 2, 3, 4, 5, 6]]), "16 bits a channel"),
    "animated PNG": (saved(RGB, "PNG", **FRAMES), "animated, 2 frames: save each"),
    "animated WebP": (saved(RGB, "WEBP", **FRAMES), "animated, 2 frames"),
    "GIF": (saved(RGB, "GIF"), "as an image: it is no PNG, JPEG, WebP or BMP file; replace, convert or remove it"),
    "TIFF": (saved(RGB, "TIFF"), "it is no PNG"),
    "empty": (b"", "it is no PNG"),
    "flipped bit": (FLIPPED, "cannot be read as an image"),
    "cut": (WHOLE[:-30], "cannot be read as an image"),
    "cut JPEG": (saved(RGB.resize((64, 64)), "JPEG")[:-200], "truncated"),
    "no pixels": (WHOLE[:33] + WHOLE[-12:], "cannot be read as an image"),
    "bomb": (png(30000, 8, 0, [[0]], height=30000), "exceeds limit of 178956970 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_is_one_line_with_its_name(name, tmp_path):
    data, message = REFUSED[name]
    for file, called in ((tmp_path / "x.png", "x.png"), (data, f"{len(data)} bytes")):
        (tmp_path / "x.png").write_bytes(data)
        with pytest.raises(ValueError, match=message) as caught:
            decoded_image(file, 3)
        assert called in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^train record 7: "):
        decoded_image(data, 3, name="train record 7")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    messages = {
        "pipe": "is no regular file; replace, convert or remove it",
        "folder": "is no regular file",
        "absent": "No such file",
    }
    messages |= {"lost": "No such file", "loop": "symbolic links"}
    for name, message in messages.items():
        for read in (is_gray, lambda file: decoded_image(file, 1)):
            with pytest.raises(ValueError, match=rf"{name}.png: cannot be read as an image: .*{message}"):
                read(tmp_path / f"{name}.png")


def test_images_that_do_not_fit_in_memory_are_refused_first(tmp_path, monkeypatch):
    RGB.save(tmp_path / "a.png")
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}[name])
    assert stacked_images([tmp_path / "a.png"] * 64, 3).shape == (64, 8, 8, 3)  # 12 KiB
    with pytest.raises(ValueError, match="this machine has 0: give fewer or smaller images"):
        stacked_images([tmp_path / "a.png"] * 65, 3)
