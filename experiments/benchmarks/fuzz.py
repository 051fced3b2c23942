"""Does any file end in something else than pixels or one line? Damaged and odd files against all that reads them.

    python experiments/benchmarks/fuzz.py                     5000 cases of each reader, minutes
    python experiments/benchmarks/fuzz.py --cases 100 --readers npz

Readers are the folder reader (odd trees: system files, pipes, links that lead nowhere, names of all kinds), the npz
reader (odd arrays) and predict.py's (images); of the files in them some bytes are changed. A case may give pixels, or a
ValueError of one line that names the file. Prints how many gave which. Exit codes: 0 all did, 1 one did not: Hypothesis
shows the smallest such case; 2 bad input.
"""

import contextlib
import dataclasses
import io
import os
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from hypothesis import HealthCheck, given, seed, settings, strategies as st
from PIL import Image

import osrjax
from osrjax.commands.predict import files_of, read_image
from osrjax.run.launch import launch

Reader = Literal["folder", "npz", "predict"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Read damaged and odd files."""

    readers: tuple[Reader, ...] = get_args(Reader)
    """What reads them."""
    cases: int = 5000
    """Cases of each reader."""
    seed: int = 0
    """Seed of the cases."""
    seconds: float = 20.0
    """A case that takes longer hangs."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        if self.cases < 1 or not self.seconds > 0 or not self.readers:
            raise ValueError(f"cases={self.cases}, seconds={self.seconds} and readers={self.readers}: give some")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, reads; returns the exit code."""
    return launch(Config, work, script="fuzz.py", description=__doc__, arguments=arguments)


def work(config: Config) -> int:
    """The whole job; returns the exit code."""
    for reader in config.readers:
        try:
            counts = outcomes(reader, config)
        except Exception:
            traceback.print_exc()
            return 1
        print(f"{reader}: {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}", flush=True)
    return 0


def outcomes(reader: Reader, config: Config) -> Counter[str]:
    """How many cases of a reader ended how."""
    counts: Counter[str] = Counter()

    @seed(config.seed)
    @settings(max_examples=config.cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(CASES[reader])
    def run(case: Any) -> None:
        counts[outcome(reader, case, seconds=config.seconds)] += 1

    run()
    return counts


# ----------------------------------------------------------------------------------------- what may happen


class HangError(BaseException):
    """A case takes too long. No Exception: what catches damaged files must not catch it."""


@contextlib.contextmanager
def limited(seconds: float) -> Generator[None]:
    """Ends what takes longer."""

    def stop(number: int, frame: object) -> None:
        raise HangError(f"a case takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(reader: Reader, case: Any, *, seconds: float = 20.0) -> str:
    """Says "pixels" or "one line"; anything else is an error of the reader."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as name, limited(seconds), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(name) / "case"
        try:
            READERS[reader](case, root)
        except ValueError as error:
            text = str(error)
            assert "case" in text, f"the file is not named: {text}"
            assert len(text.splitlines()) == 1, f"not one line: {text}"
            assert "pickle" not in text, f"advice to load it unsafely: {text}"
            return "one line"
        return "pixels"


def check_source(source: "osrjax.data.Source") -> None:
    """Reads all of a source."""
    osrjax.data.class_table(source)
    for split in source.splits:
        images, labels = source.splits[split]
        assert (images.dtype, images.ndim, labels.dtype) == (np.uint8, 4, np.int32)
        assert images.shape[-1] in (1, 3)
        assert len(images) == len(labels) > 0
        assert 0 <= labels.min() <= labels.max() < len(source.class_names)


def read_folder(tree: "list[tuple[str, Entry]]", root: Path) -> None:
    """An image folder of such a tree."""
    root.mkdir()
    for path, entry in tree:
        with contextlib.suppress(OSError):  # a file in the place of a folder
            place(root / path, entry)
    check_source(osrjax.data.open_source(f"folder:{root}"))


def read_npz(data: bytes, root: Path) -> None:
    """An .npz file of these bytes."""
    root.write_bytes(data)
    check_source(osrjax.data.open_source(f"npz:{root}"))


def read_predict(data: bytes, root: Path) -> None:
    """An image of these bytes, as predict.py takes it, by itself and in a folder."""
    root.mkdir()
    (root / "image.png").write_bytes(data)
    for path in files_of(root):
        for shape in ((8, 8, 3), (4, 6, 1)):
            pixels = read_image(path, shape, resize=True)
            assert (pixels.shape, pixels.dtype) == (shape, np.uint8)


READERS: dict[Reader, Callable[[Any, Path], None]] = {
    "folder": read_folder,
    "npz": read_npz,
    "predict": read_predict,
}

# -------------------------------------------------------------------------------------------------- images


def encoded(mode: str, kind: str, **options: Any) -> bytes:
    """A small picture in a file's form."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    image = Image.fromarray(np.full((8, 8), 3000, np.uint16)) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sideways() -> Image.Exif:
    """The tag of an upright camera."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "red")]}
IMAGES = [
    *(encoded(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    encoded("P", "PNG", transparency=bytes(range(256))),
    encoded("L", "PNG", transparency=7, exif=sideways()),
    encoded("RGB", "PNG", **FRAMES),
    *(encoded(mode, "JPEG", exif=sideways()) for mode in ("L", "RGB", "CMYK")),
    *(encoded(mode, "WEBP", exif=sideways()) for mode in ("RGB", "RGBA")),
    encoded("RGB", "WEBP", **FRAMES),
    *(encoded(mode, "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(encoded("RGB", kind) for kind in ("GIF", "TIFF", "PPM")),
    b"",
    b"no image",
]


def with_checksums(data: bytes) -> bytes:
    """A PNG file whose checksums fit its chunks, so that what is changed reaches the decoder."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if place + 12 + length > len(data):
            break
        chunk = data[place + 4 : place + 8 + length]
        parts.append(data[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk)))
        place += 12 + length
    return b"".join([*parts, data[place:]])


@st.composite
def changed(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> bytes:
    """Bytes, some of them changed, dropped, doubled or cut off."""
    found = draw(data)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 4]))):
        place = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.sampled_from(["set", "set", "drop", "double", "cut"]))
        length = draw(st.integers(1, 20))
        middle = {
            "set": draw(st.binary(min_size=1, max_size=2)),
            "drop": b"",
            "double": found[place : place + length] * 2,
            "cut": b"",
        }[kind]
        end = len(found) if kind == "cut" else place + (len(middle) if kind == "set" else length)
        found = found[:place] + middle + found[end:]
    return with_checksums(found) if found[:4] == b"\x89PNG" and draw(st.booleans()) else found


# --------------------------------------------------------------------------------------------------- trees

Entry = bytes | Literal["folder", "pipe", "lost link", "loop"]


def place(path: Path, entry: Entry) -> None:
    """Makes an entry of a tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):  # to write into a pipe would wait for ever
        return
    if isinstance(entry, bytes):
        path.write_bytes(entry)
    elif entry == "folder":
        path.mkdir()
    elif entry == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if entry == "loop" else path.with_name("nowhere"))


ACCENTS = ["\u00e9", "e\u0301"]  # composed and decomposed
WORDS = ["a", "b", "1", "2", "10", "01", "A", "a b", *ACCENTS]
ODD_WORDS = [*WORDS, " x", "\x1b[31m", os.fsdecode(b"\xff"), "__MACOSX", ".hidden"]
FILES = ["0.png", "1.PNG", "2.jpg", "._0.png", ".DS_Store", "Thumbs.db", "x.tif", "notes.txt", "bare"]
FILES += [f"{accent}.png" for accent in ACCENTS]
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.sampled_from([encoded("L", "PNG"), encoded("RGB", "PNG")]),
    changed(st.sampled_from(IMAGES)),
    st.sampled_from(["folder", "pipe", "lost link", "loop"]),
)


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[str, Entry]]:
    """A folder in good order, and odd things in it."""
    good, words, odd_words = encoded("RGB", "PNG"), st.sampled_from(WORDS), st.sampled_from(ODD_WORDS)
    tree: list[tuple[str, Entry]] = [
        (f"{split}/{name}/0.png", good)
        for split in draw(st.lists(st.sampled_from(["train", "test", "val", "extra"]), min_size=1, unique=True))
        for name in draw(st.lists(words, unique=True, min_size=1, max_size=4))
    ]
    odd = st.tuples(st.sampled_from(["train", "test", ".", "a"]), odd_words, st.sampled_from(FILES))
    for split, name, file in draw(st.lists(odd, max_size=3)):
        depth = draw(st.sampled_from([f"{split}/{name}/{file}", f"{split}/{file}", f"{split}/{name}/deep/{file}"]))
        tree.append((depth, draw(ENTRIES)))
    return tree


# -------------------------------------------------------------------------------------------------- arrays

LABELS: list[np.ndarray] = [np.arange(6) % 3 + offset for offset in (0, -1, 1)]
LABELS += [LABELS[0].astype(kind) for kind in (bool, np.uint8, np.float32, ">i4", "U1", "S1", "M8[s]", object)]
LABELS += [np.eye(3)[LABELS[0]], LABELS[0][:, None], LABELS[0][:5], np.array(2), np.array([2**63] * 6, np.uint64)]
PIXELS: list[np.ndarray] = [np.arange(6 * size, dtype=np.uint32).astype(np.uint8) for size in (12, 16)]
PIXELS += [
    array.reshape(6, -1, 2, *tail)
    for array, tail in ((PIXELS[0], (3,)), (PIXELS[0], ()), (PIXELS[1], (2,)), (PIXELS[1], (4,)), (PIXELS[0], (1,)))
]
PIXELS += [PIXELS[2].astype(kind) for kind in (bool, np.float64, np.int16, complex, object, [("x", "u1")])]
PIXELS += [PIXELS[2] % 2, PIXELS[2] * 0, PIXELS[2][:0], np.full((6, 2, 2), np.nan)]
CLASSES: list[np.ndarray] = [
    np.array(names) for names in (["a", "b", "c"], ["a", "a"], ["1", "2", "3"], ["", "\x1b", "é"], [1, 2], "a")
]
CLASSES += [np.array(["a", None, "c"], object)]


def packed(arrays: dict[str, np.ndarray], huge: str, compression: int) -> bytes:
    """An .npz file of arrays, one of which claims to be huge."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                if name == huge:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (2**45, 8, 8)}
                    np.lib.format.write_array_header_1_0(member, header)
                else:
                    np.lib.format.write_array(member, array, allow_pickle=True)
    return file.getvalue()


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Arrays in good order, or some of them odd, missing or misnamed."""
    arrays = {}
    for split in draw(st.lists(st.sampled_from(["train", "test", "val", "Train", "a/b", ""]), min_size=1, unique=True)):
        good = draw(st.integers(0, 4)) > 0
        arrays[f"{split}_images"] = PIXELS[2] if good else draw(st.sampled_from(PIXELS))
        arrays[f"{split}_labels"] = LABELS[0] if good else draw(st.sampled_from(LABELS))
    for name in ("classes", "note"):
        if draw(st.integers(0, 3)) == 0:
            arrays[name] = draw(st.sampled_from([*CLASSES, *LABELS]))
    if draw(st.integers(0, 5)) == 0:
        arrays.pop(draw(st.sampled_from(sorted(arrays))))
    huge = draw(st.sampled_from([*[""] * 9, *arrays]))
    return packed(arrays, huge, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))


CASES: dict[Reader, st.SearchStrategy] = {
    "folder": trees(),
    "npz": changed(archives()),
    "predict": changed(st.sampled_from(IMAGES)),
}


if __name__ == "__main__":
    sys.exit(main())
