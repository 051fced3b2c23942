"""The documentation's own files: no output is committed, its notebook runs."""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "notebooks" / "quickstart.ipynb"


def code_cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_without_outputs():
    assert [cell for cell in code_cells(NOTEBOOK) if cell["outputs"] or cell["execution_count"]] == []


def test_the_notebook_runs(capsys, narrow):
    """In this process, with few steps and images; its last line is what is asked for."""
    names: dict = {}
    for cell in code_cells(NOTEBOOK):
        source = "".join(cell["source"]).replace("STEPS, IMAGES = 100, 32", "STEPS, IMAGES = 3, 4")
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert names["STEPS"] == 3
    printed = capsys.readouterr().out
    assert re.search(r"^m_ovr_margin +\d\.\d{3} +\d\.\d{3}$", printed, re.MULTILINE)
    assert re.search(r"^JND -?\d", printed, re.MULTILINE)
