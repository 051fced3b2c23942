"""The elements of a page: everything that is put into one is escaped here, and nowhere else."""

import base64
import hashlib
import html
import importlib.resources
import importlib.util
import io
import itertools
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

import osrjax
from osrjax.files import json_text, number_or_none

__all__ = [
    "GET_DRAWINGS",
    "REMEDY",
    "Cell",
    "Drawing",
    "Page",
    "Section",
    "details",
    "gallery",
    "has_drawings",
    "image_uri",
    "link",
    "paragraph",
    "picture",
    "plain_table",
    "render",
    "table",
]

GET_DRAWINGS = "figures that can be looked into: pip install 'osrjax[page]', then osrjax report DIRECTORY"
REMEDY = "restore it, or give the command that made it again"  # for a damaged file


class Cell(NamedTuple):
    """What a cell of a table shows, and the number by which it is sorted and that a program reads."""

    text: str
    value: float | None = None
    markup: str | None = None


class Drawing(NamedTuple):
    """A figure: its caption, which is read out too, what makes Bokeh's model of it, and whether two stand in a row."""

    caption: str
    make: Callable[[], Any]
    half: bool = False


class Section(NamedTuple):
    """A part of a page under a heading of its own: markup from this module, and drawings."""

    title: str
    parts: Sequence[str | Drawing]


class Page(NamedTuple):
    """All that a page says."""

    title: str
    kind: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()


def has_drawings() -> bool:
    """Whether figures can be drawn that can be looked into."""
    return importlib.util.find_spec("bokeh") is not None


def paragraph(words: str) -> str:
    """Running text."""
    return f"<p>{html.escape(words)}</p>"


def link(words: str, path: str) -> Cell:
    """A cell that leads to another page.

    Args:
      words: to click on.
      path: from the directory of this page down.
    """
    return Cell(words, None, f'<a href="{html.escape(quote(path))}">{html.escape(words)}</a>')


def details(summary: str, *parts: str) -> str:
    """What is folded away.

    Args:
      summary: what is seen of it.
      *parts: markup.
    """
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(parts)}</details>"


def table(rows: Sequence[Mapping[str, object]], caption: str) -> str:
    """A table that is sorted by a click, or Enter, on the head of a column.

    Args:
      rows: one or more, cells by column; columns stand in the order in which they first occur.
      caption: above it.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    numbers = [any(row[i].value is not None for row in cells) for i in range(len(columns))]
    side = [' class="number"' if number else "" for number in numbers]
    head = "".join(
        f'<th scope="col"{where}><button type="button">{html.escape(name).replace(" +", "&nbsp;+")}</button></th>'
        for name, where in zip(columns, side, strict=True)
    )
    body = "".join(f"<tr>{_row(row, side)}</tr>" for row in cells)
    name = html.escape(caption)
    return (
        f'<figure><figcaption>{name}</figcaption><div class="wide" role="region" tabindex="0" aria-label="{name}">'
        f'<table class="sorted"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>'
    )


def plain_table(entries: Mapping[str, object], caption: str) -> str:
    """Names and what they stand for.

    Args:
      entries: by name, texts or plain values.
      caption: above them.
    """
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        f"<td>{html.escape(found if isinstance(found, str) else json_text(found))}</td></tr>"
        for name, found in entries.items()
    )
    return f'<table class="plain"><caption>{html.escape(caption)}</caption><tbody>{rows}</tbody></table>'


def image_uri(pixels: np.ndarray, *, largest: int = 64) -> str:
    """An image as the address that holds it.

    Args:
      pixels: uint8, ``[height, width, 1 or 3]``.
      largest: pixels of its longer side, at most.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((largest, largest))
    return _address(image, "png")


def gallery(images: Iterable[tuple[np.ndarray, str, str]]) -> str:
    """Images, each with two lines under it: whose it is, and what was made of it."""
    tiles = "".join(
        f'<li><img src="{image_uri(pixels)}" alt="{html.escape(name)}" width="72"><b>{html.escape(name)}</b>'
        f"<span>{html.escape(found)}</span></li>"
        for pixels, name, found in images
    )
    return f'<ul class="gallery">{tiles}</ul>'


def picture(path: Path, caption: str) -> str:
    """A picture file, made small; as an image it cannot run anything, not even an SVG.

    Args:
      path: of a PNG or an SVG.
      caption: under it.

    Raises:
      OSError: it is no picture; whatever Pillow raises.
    """
    if path.suffix == ".svg":
        address = f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
    else:
        with Image.open(path, formats=["PNG"]) as image:
            small = image.convert("RGB")
        small.thumbnail((1100, 3000))
        address = _address(small, "jpeg")
    name = html.escape(caption)
    return f'<figure><img class="picture" src="{address}" alt="{name}"><figcaption>{name}</figcaption></figure>'


def render(page: Page) -> str:
    """The whole file.

    Args:
      page: what it says.

    Returns:
      HTML that refers to nothing outside.
    """
    drawn = has_drawings()
    notes = [*page.notes, *([] if drawn else [f"Without {GET_DRAWINGS}."])]
    models: list[Any] = []
    sections, contents = [], []
    for section in page.sections:
        parts = section.parts if drawn else [part for part in section.parts if isinstance(part, str)]
        if not parts:
            continue
        markup = ""
        for half, group in itertools.groupby(parts, lambda part: isinstance(part, Drawing) and part.half):
            shown = "".join(part if isinstance(part, str) else _figure(part, models) for part in group)
            markup += f'<div class="grid">{shown}</div>' if half else shown
        title, number = html.escape(section.title), len(sections)
        contents.append(f'<li><a href="#part-{number}">{title}</a></li>')
        sections.append(f'<section id="part-{number}"><h2>{title}</h2>{markup}</section>')
    facts = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in page.facts.items())
    scripts = [_file("page.js")]
    if models:
        from bokeh.resources import Resources

        scripts.insert(0, Resources(mode="inline", components=["bokeh"]).js_raw[0])
    return string.Template(_file("page.html")).substitute(
        title=html.escape(page.title),
        kind=html.escape(page.kind),
        version=html.escape(osrjax.__version__),
        style=_file("page.css"),
        allowed=" ".join(f"'sha256-{_checksum(script)}'" for script in scripts),
        facts=facts,
        notes="".join(f"<li>{html.escape(note)}</li>" for note in notes),
        contents="".join(contents),
        sections="".join(sections),
        # "<" starts no element inside a string of JSON that has none
        drawings=json_text(_items(models)).replace("<", "\\u003c"),
        scripts="".join(f"<script>{script}</script>" for script in scripts),
    )


def _address(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _cell(found: object) -> Cell:
    if isinstance(found, Cell):
        return found
    if found is None:
        return Cell("–")
    if isinstance(found, bool):
        return Cell("yes" if found else "no")
    if isinstance(found, str):
        return Cell(found)
    if isinstance(found, int | np.integer):
        return Cell(str(found), float(found))
    number = number_or_none(float(str(found)))
    return Cell("undefined" if number is None else f"{number:.3f}", number)


def _row(cells: Sequence[Cell], side: Sequence[str]) -> str:
    marked = []
    for index, (cell, where) in enumerate(zip(cells, side, strict=True)):
        value = "" if cell.value is None else f' data-value="{cell.value!r}"'
        tag, scope = ("th", ' scope="row"') if index == 0 else ("td", "")
        marked.append(f"<{tag}{scope}{where}{value}>{cell.markup or html.escape(cell.text)}</{tag}>")
    return "".join(marked)


def _figure(drawing: Drawing, models: list[Any]) -> str:
    models.append(drawing.make())
    caption = html.escape(drawing.caption)
    return (
        f'<figure><div class="drawing" id="drawing-{len(models) - 1}" role="img" aria-label="{caption}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _items(models: list[Any]) -> list[Any]:
    if not models:
        return []
    from bokeh.embed import json_item

    places: list[Any] = [f"drawing-{number}" for number in range(len(models))]
    return [json_item(model, place) for model, place in zip(models, places, strict=True)]


def _file(name: str) -> str:
    return (importlib.resources.files("osrjax.report.page") / name).read_text()


def _checksum(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
