"""Which method is best, on which protocol, and which differences are there? Every number rebuilt from score files.

    python experiments/leaderboard.py experiments/results/entries            all entries below a directory
    python experiments/leaderboard.py experiments/results/entries mine --reference softmax    against softmax
    python experiments/leaderboard.py mine --format latex                    printed as LaTeX
    python experiments/leaderboard.py experiments/results/entries --pages experiments/results/benchmark.md

An entry is a directory with manifest.json and scores.npz (osrjax/run/entries.py). Checksums are checked; then every
metric is taken anew from the order of the test images in scores.npz, and no number from anywhere else: this is the
command that recomputes a leaderboard. One table for each data set, family of class splits and unknown set. Published
numbers that were verified stand beside ours in the table of their own data set and family, and count nowhere. Entries
with a corruption.json get a table of accuracies on corrupted images, with differences and verdicts by the same rule.

Written to OUT: leaderboard.md, .csv, .tex and .json (all numbers, comparisons, and the checksums of what they were
taken from), figures/; --pages makes the tables and figures of pages anew. Seconds. Exit code 2: bad
input, nothing written.
"""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Literal

import osrjax
from osrjax.run.launch import EntriesConfig, launch


@dataclasses.dataclass(frozen=True)
class Config(EntriesConfig):
    """Tabulate entries."""

    out: Path = Path("runs/leaderboard")
    """Where tables and figures go."""
    reference: str | None = None
    """The method that the others are compared with, as tables call it; default: m-OvR, or the first that is there."""
    metric: str = "auroc"
    """What methods are sorted and compared by."""
    common: str | None = None
    """The score by which methods are compared besides their own scores; default: max_logit, where it is there."""
    format: Literal["text", "markdown", "csv", "latex"] = "text"
    """What is printed; all are written."""


USUAL = "max_logit"  # of every network with logits


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, tabulates; returns the exit code."""
    return launch(Config, tabulate, script="leaderboard.py", description=__doc__, arguments=arguments)


def tabulate(config: Config) -> int:
    """The whole job; returns the exit code."""
    report = osrjax.report

    # -------------------------------------------------------------------------------- entries
    entries = [osrjax.run.read_entry(place) for place in osrjax.run.find_entries(config.entries)]
    tables = report.entry_tables(entries)

    # --------------------------------------------------------------------------------- tables
    common = config.common or (USUAL if any(USUAL in entry.results for entry in entries) else None)
    labels = [entry.manifest["label"] for entry in entries]
    reference = config.reference or ("m-OvR" if "m-OvR" in labels else labels[0])
    found = report.leaderboard_texts(tables, reference=reference, metric=config.metric, common=common)
    figures = {
        "accuracy": report.accuracy_figure(tables, metric=config.metric),
        "ranks": report.ranks_figure(tables, metric=config.metric),
    }

    # ---------------------------------------------------------------------------------- write
    texts = {"md": f"# Leaderboard\n\n{found.markdown}", "tex": found.latex, "csv": found.csv}
    numbers = {**found.numbers, "entries": report.entry_sources(entries)}
    written = report.write_tables(
        config.out, "leaderboard", texts, numbers, figures, pages=config.pages, blocks=found.blocks
    )
    print(getattr(found, config.format).rstrip())
    print(
        f"{len(entries)} entries, every number rebuilt from their score files; {written}\n"
        f"next: osrjax report {shlex.join(map(str, config.entries))}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
