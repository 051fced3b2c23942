"""Rows of a table as Markdown, LaTeX and CSV; names in them come from anywhere, and stay names."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from osrjax.report.tables import cell_text

__all__ = ["csv_text", "latex_table", "latex_text", "markdown_table", "markdown_text"]

Rows = Sequence[Mapping[str, object]]
# "_" is left: within a word, as in knn_sum, it means nothing.
_MARKDOWN = str.maketrans({**{c: f"\\{c}" for c in "\\`*|~$"}, "&": "&amp;", "<": "&lt;", "\n": " ", "\r": " "})
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "\n": " ",
        "\r": " ",
    }
)


def markdown_text(text: str) -> str:
    r"""Text that Markdown shows as it is, also in a cell of a table: no column, code, link or HTML of its own.

    Args:
      text: any.

    Example:
      >>> markdown_text("a|b *c* [d](e)")
      'a\\|b \\*c\\* [d]\\(e)'
      >>> markdown_text("~a~ & $b$")
      '\\~a\\~ &amp; \\$b\\$'
    """
    return text.translate(_MARKDOWN).replace("](", "]\\(")


def latex_text(text: str) -> str:
    r"""Text that LaTeX sets as it is.

    Args:
      text: any.

    Example:
      >>> latex_text("m_ovr, 50 %")
      'm\\_ovr, 50 \\%'
    """
    return text.translate(_LATEX)


def markdown_table(rows: Rows, *, digits: int = 3) -> str:
    r"""A table in Markdown.

    Args:
      rows: as for :func:`osrjax.report.results_table`.
      digits: as there.

    Returns:
      Lines without a final newline; numbers and intervals are right-aligned.

    Example:
      >>> print(markdown_table([{"score": "a|b", "auroc": 0.8512}]))
      | score | auroc |
      |---|--:|
      | a\|b | 0.851 |
    """
    columns, lines = _lines(rows, markdown_text, digits)
    rules = ["---" if text else "--:" for text in _is_text(rows, columns)]
    shown = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([shown[0], f"|{'|'.join(rules)}|", *shown[1:]])


def latex_table(rows: Rows, *, caption: str, digits: int = 3) -> str:
    r"""A table in LaTeX, with the lines of the package booktabs.

    Args:
      rows: as for :func:`osrjax.report.results_table`.
      caption: plain text.
      digits: as there.

    Returns:
      A table environment, without a final newline.

    Example:
      >>> print(latex_table([{"score": "a_b", "auroc": 0.8512}], caption="50 %"))
      \begin{table*}
      \centering\scriptsize
      \caption{50 \%}
      \begin{tabular}{lr}
      \toprule
      score & auroc \\
      \midrule
      a\_b & 0.851 \\
      \bottomrule
      \end{tabular}
      \end{table*}
    """
    columns, lines = _lines(rows, latex_text, digits)
    kinds = "".join("l" if text else "r" for text in _is_text(rows, columns))
    shown = [" & ".join(line) + r" \\" for line in lines]
    shown = ["{}" + line if line[0] in "[*" else line for line in shown]  # they would be options of the \\ before
    head = [r"\begin{table*}", r"\centering\scriptsize", rf"\caption{{{latex_text(caption)}}}"]
    body = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", shown[0], r"\midrule", *shown[1:], r"\bottomrule"]
    return "\n".join([*head, *body, r"\end{tabular}", r"\end{table*}"])


def csv_text(rows: Rows) -> str:
    """Rows as CSV, numbers in full; a spreadsheet takes no text for a formula.

    Args:
      rows: one or more, cells by column name; None or a missing cell is empty.

    Returns:
      Lines with a final newline.

    Example:
      >>> print(csv_text([{"label": "=1+1", "difference": -0.5}]), end="")
      label,difference
      '=1+1,-0.5
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_harmless(row.get(name)) for name in columns] for row in rows)
    return file.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value


def _lines(rows: Rows, escaped: Callable[[str], str], digits: int) -> tuple[list[str], list[list[str]]]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[cell_text(row.get(name), digits=digits) for name in columns] for row in rows]
    return columns, [[escaped(cell) for cell in line] for line in (columns, *cells)]


def _is_text(rows: Rows, columns: Sequence[str]) -> list[bool]:
    return [any(isinstance(row.get(name), str) for row in rows) for name in columns]
