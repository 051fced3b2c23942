"""One decoder for every image file: the picture that a viewer shows, in 8 bits, or one line that says why not.

Formats are PNG, JPEG, WebP and BMP. The orientation that a camera notes is applied and transparent pixels lie on white;
what is damaged, animated, deeper than 8 bits, or neither gray nor RGB, is refused. Colour profiles are not applied, and
damage in the middle of a JPEG goes unnoticed: the format has no checksum.
"""

import io
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from osrjax.files import check_memory

__all__ = ["IMAGE_SUFFIXES", "decoded_image", "is_gray", "stacked_images"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
GRAY_MODES = ("1", "L", "LA")
DEEP = (";16B", ";16L", ";16N")  # endings of Pillow's names for 16 bits a channel, of which it drops the lower 8
FEW_BITS = {"L;2": 85, "L;4": 17}  # Pillow scales the pixels of 2 and 4 bits to 255, but not their transparent value


def decoded_image(
    file: bytes | Path, channels: int, *, name: str | None = None
) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of an encoded image.

    Args:
      file: path, or the encoded bytes, of a PNG, JPEG, WebP or BMP file.
      channels: 1 for gray, 3 for RGB; an image of the other kind is converted.
      name: what to call the image in an error; the path, or the number of bytes, if None.

    Returns:
      The pixels, upright, transparent ones on white.

    Raises:
      ValueError: if the file is not an image that can be read and shown in 8 bits.
    """
    with _opened(file, name) as image:
        if image.format == "PNG":
            image.verify()  # checksums, which decoding skips
    with _opened(file, name) as image:
        _scale_transparent_value(image)
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            shown = image.convert("RGBA")
            shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
        else:
            shown = image
        pixels = np.asarray(shown.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def is_gray(file: Path) -> bool:
    """Whether an image file holds gray pixels; only its header is read.

    Args:
      file: its path.

    Returns:
      True for gray, also with alpha.

    Raises:
      ValueError: as :func:`decoded_image`, where the header shows it.
    """
    with _opened(file, None) as image:
        return image.mode in GRAY_MODES


def stacked_images(files: Sequence[Path], channels: int) -> UInt8[np.ndarray, "batch height width channels"]:
    """The pixels of image files of one size.

    Args:
      files: paths, at least one.
      channels: 1 for gray, 3 for RGB.

    Returns:
      The pixels of all.

    Raises:
      ValueError: if a file cannot be read or has another size than the first one, or if all would not fit in memory.
    """
    first = decoded_image(files[0], channels)
    check_memory(len(files) * first.size, where=f"{files[0].parent} and the like")
    images = np.empty((len(files), *first.shape), np.uint8)
    for row, file in enumerate(files):
        image = decoded_image(file, channels)
        if image.shape != first.shape:
            raise ValueError(
                f"{file}: has size {image.shape[:2]} but {files[0].name} has {first.shape[:2]}:"
                " bring all images to one size"
            )
        images[row] = image
    return images


@contextmanager
def _opened(file: bytes | Path, name: str | None) -> Generator[Image.Image]:
    """The image, its header read and found fit; whatever goes wrong inside is one line."""
    what = name or (f"{len(file)} bytes" if isinstance(file, bytes) else str(file))
    try:
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("it is no regular file")  # opening a fifo would wait for ever
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            _check_header(image)
            yield image
    except Exception as error:  # whatever a damaged file makes Pillow raise: SyntaxError, struct.error, zlib.error, ...
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it is no PNG, JPEG, WebP or BMP file"
        raise ValueError(f"{what}: cannot be read as an image: {reason}; replace, convert or remove it") from error


def _check_header(image: Image.Image) -> None:
    if image.mode not in MODES:
        raise ValueError(f"its mode {image.mode!r} does not hold 8-bit gray or RGB: convert it")
    if image.format == "PNG" and str(_raw_mode(image)).endswith(DEEP):
        raise ValueError("it has 16 bits a channel, not 8-bit gray or RGB: scale it to 0 to 255 and convert it")
    # Of a photograph with further pictures inside (MPO) the first one is the photograph.
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"it is animated, {frames} frames: save each that you want as an image of its own")


def _raw_mode(image: Image.Image) -> object:
    """How the pixels lie in the file."""
    tiles = getattr(image, "tile", None)
    return tiles[0].args if tiles else None


def _scale_transparent_value(image: Image.Image) -> None:
    factor = FEW_BITS.get(str(_raw_mode(image))) if image.format == "PNG" else None
    if factor and "transparency" in image.info:
        image.info["transparency"] *= factor
