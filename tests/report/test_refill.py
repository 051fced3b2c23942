"""Pages that a command makes anew: blocks, figures, what is refused."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from osrjax.files import FileError
from osrjax.report import refilled, small_png, write_tables

PAGE = """# A

words

<!-- one -->
old

| old |
<!-- end -->

<!-- two: a, b -->
<!-- end -->

![x](page-plot.png)
"""


def figure(draws=None):
    drawn = Figure(figsize=(5, 2))
    axes = drawn.subplots()
    axes.plot([0, 1])
    if draws is not None:
        axes.imshow(draws.random((300, 700, 3)), aspect="auto")
    return drawn


def write(tmp_path, blocks, text=PAGE):
    page = tmp_path / "page.md"
    page.write_text(text)
    figures = {"plot": figure(), "other": figure()}
    line = write_tables(tmp_path / "out", "table", {"md": "# T\n"}, {"n": 1}, figures, pages=[page], blocks=blocks)
    return line, page.read_text()


def test_blocks_are_replaced_and_words_stay(tmp_path):
    line, text = write(tmp_path, {"one": "| 1 |\n", "unused": "x"})
    assert text == PAGE.replace("\nold\n\n| old |\n", "\n\n| 1 |\n\n")
    assert line == f"written to {tmp_path / 'out'}; left as they were, of nothing given here: two: a, b"
    assert refilled(text, {"one": "| 1 |"}, where="x")[0] == text  # once more changes nothing
    assert (tmp_path / "out" / "table.md").read_text() == "# T\n"
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("plot", "other") for kind in ("png", "svg")
    }
    assert Image.open(io.BytesIO((tmp_path / "page-plot.png").read_bytes())).width == 1000
    assert not list(tmp_path.glob("*other.png"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# A\n", "has no block: begin one"),
        ("# A\n<!-- one -->\n| x |\n", "has a block 'one' without end"),
        ("<!-- one -->\n<!-- two -->\n<!-- end -->\n", "has a block 'one' without end"),
    ],
)
def test_a_page_without_whole_blocks_is_refused_before_anything_is_written(text, message, tmp_path):
    with pytest.raises(FileError, match=message):
        write(tmp_path, {"one": "x"}, text)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "page.md").read_text() == text


def test_a_page_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileError, match="give another page"):
        write_tables(tmp_path / "out", "table", {}, {}, {}, pages=[tmp_path / "none.md"], blocks={})


def test_a_figure_of_noise_is_below_100_kilobytes():
    whole = small_png(figure(np.random.default_rng(0)))
    assert len(whole) < 100_000
    assert Image.open(io.BytesIO(whole)).width == 1000
