"""Pages of the repository, such as results, as pages of the documentation: written before every build, never edited.

A link to another such page leads to it, a link to any other file of the repository downloads that file.
"""

import os
import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
OUT = DOCS / "generated" / "repository"
RESULTS = ROOT / "experiments" / "results"
INDEX = "# Results\n\nOne page per answer.\n\n```{{toctree}}\n{}\n```\n"


def pages() -> list[Path]:
    """The Markdown files that become pages."""
    return sorted(
        path for place in (ROOT, ROOT / "experiments", RESULTS, RESULTS / "claims") for path in place.glob("*.md")
    )


def place(page: Path) -> Path:
    """Where the copy of a page lies."""
    return OUT / page.relative_to(ROOT)


def with_links(page: Path) -> str:
    """The page's text, its links rewritten for its new place; code blocks stay."""
    here, targets = place(page).parent, {path: place(path) for path in pages()}
    targets |= {RESULTS: place(RESULTS / "index.md"), ROOT / "docs" / "index.md": DOCS / "index.md"}

    def rewritten(match: re.Match) -> str:
        before, link, after = match.groups()
        path, mark, anchor = link.partition("#")
        if not path or re.match(r"\w+:", path):
            return match.group()
        found = (page.parent / path).resolve()
        return f"{before}{os.path.relpath(targets.get(found, found), here)}{mark}{anchor}{after}"

    parts = re.split(r"(^```.*?^```$)", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    link = re.compile(r'(\]\(|src=")([^)"\s]+)(\)|")')
    parts = [part if part.startswith("```") else link.sub(rewritten, part) for part in parts]
    return "".join(re.sub(r"^```\n", "```text\n", part) for part in parts)  # a table is no Python


def write(path: Path, text: str) -> None:
    """Writes what changed, so that only that is read again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def generate(app) -> None:
    """All pages, and a list of the results."""
    for page in pages():
        write(place(page), with_links(page))
    names = [str(path.relative_to(RESULTS).with_suffix("")) for path in pages() if path.is_relative_to(RESULTS)]
    write(place(RESULTS / "index.md"), INDEX.format("\n".join(names)))
    wanted = {place(page) for page in [*pages(), RESULTS / "index.md"]}
    for stale in set(OUT.rglob("*.md")) - wanted:
        stale.unlink()


def setup(app):
    """Before sources are looked for."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
