"""What a command that tabulates entries leaves: its tables in every format, its figures, and pages that show them.

A page is written by people; of a command are the parts between a line ``<!-- NAME -->`` and the next ``<!-- end -->``,
and the figures that it links by their name. Given such pages, the command makes these anew, so that no number is copied
by hand.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from osrjax.files import FileError, read_text, write_json, write_whole, writing
from osrjax.report.curves import save_figure
from osrjax.run.entries import Entry

__all__ = ["entry_sources", "refilled", "small_png", "write_tables"]

KEPT = ("label", "study", "split", "seed", "recipe", "revision", "machine", "files")

BLOCK = re.compile(r"^<!-- (.+) -->\n(?:(?!<!-- ).*\n)*<!-- end -->$", re.MULTILINE)
BYTES = 100_000


def entry_sources(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """What numbers were taken from: of every entry its place, its training, and the checksums of its files."""
    return [
        {"directory": str(entry.directory), **{name: entry.manifest.get(name) for name in KEPT}} for entry in entries
    ]


def write_tables(
    out: Path,
    name: str,
    texts: Mapping[str, str],
    numbers: Mapping[str, Any],
    figures: Mapping[str, Figure],
    *,
    pages: Sequence[Path] = (),
    blocks: Mapping[str, str] | None = None,
) -> str:
    """Writes tables and figures, then makes pages anew.

    Args:
      out: a directory, made where it does not exist.
      name: of the files, without suffix.
      texts: by suffix.
      numbers: JSON values, written to ``NAME.json``.
      figures: by name, drawn to ``out/figures`` as PNG and SVG.
      pages: files with blocks; the figures that one links as ``NAME.png`` or ``PAGE-NAME.png`` lie beside it, small.
      blocks: Markdown by the name of the block.

    Returns:
      What was done, a line.

    Raises:
      FileError: a page that cannot be read, without block, or with one that does not end; nothing is written then.
    """
    new, left = {}, []
    for page in pages:
        new[page], others = refilled(read_text(page, "give another page"), blocks or {}, where=str(page))
        left += others
    with writing(out):
        (out / "figures").mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        write_whole(out / f"{name}.{suffix}", text.encode())
    write_json(out / f"{name}.json", numbers)
    for label, figure in figures.items():
        save_figure(figure, out / "figures" / label)
    for page, text in new.items():
        for shown in dict.fromkeys(re.findall(r"\]\(([\w+-]+)\.png\)", text)):
            if (label := shown.removeprefix(f"{page.stem}-")) in figures:
                write_whole(page.with_name(f"{shown}.png"), small_png(figures[label]))
        write_whole(page, text.encode())
    return f"written to {out}" + (f"; left as they were, of nothing given here: {', '.join(left)}" if left else "")


def refilled(text: str, blocks: Mapping[str, str], *, where: str) -> tuple[str, list[str]]:
    r"""A page with new blocks.

    Args:
      text: of the page.
      blocks: Markdown by name.
      where: what to call the page in an error.

    Returns:
      The page, and the names of its blocks that were left as they were.

    Raises:
      FileError: it has no block, or one that does not end.

    Example:
      >>> refilled("# Title\n\n<!-- a -->\n<!-- end -->\n", {"a": "| x |"}, where="page.md")
      ('# Title\n\n<!-- a -->\n\n| x |\n\n<!-- end -->\n', [])
    """
    names = [match[1] for match in BLOCK.finditer(text)]
    begun = [name for name in re.findall(r"^<!-- (.+?) -->$", text, re.MULTILINE) if name != "end"]
    if not names or names != begun:
        wrong = next((name for name in begun if name not in names), None)
        raise FileError(
            f"{where} has "
            + (f"a block {wrong!r} without end: close it" if wrong else "no block: begin one by a line <!-- NAME -->")
            + " by a line <!-- end -->"
        )

    def new(match: re.Match) -> str:
        return f"<!-- {match[1]} -->\n\n{blocks[match[1]].strip()}\n\n<!-- end -->" if match[1] in blocks else match[0]

    return BLOCK.sub(new, text), [name for name in names if name not in blocks]


def small_png(figure: Figure, *, width: int = 1000) -> bytes:
    """A figure as a PNG below 100 KB, for a page in a repository.

    Args:
      figure: any.
      width: of the image, pixels.

    Returns:
      The file, of as many colours as fit.
    """
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=2 * width / figure.get_figwidth())  # twice as wide: smooth when halved
    image = Image.open(whole).convert("RGB").reduce(2)
    for colours in (256, 96, 32, 16, 8, 4):
        file = io.BytesIO()
        image.quantize(colours).save(file, format="PNG", optimize=True)
        if file.tell() < BYTES:
            break
    return file.getvalue()
