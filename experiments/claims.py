"""Do the paper's claims on input-Jacobian norms hold at real accuracies? Every claim, from the probes of entries alone.

    python experiments/claims.py experiments/results/entries                        all entries below a directory
    python experiments/claims.py experiments/results/entries --pages experiments/results/claims/*.md    pages made anew
    python experiments/claims.py experiments/results/entries experiments/results/studies    (f), (h) and (i) as well

Entries are those of experiments/leaderboard.py; one that was trained with --probe-every holds a probe: Jacobian norms,
profiles along lines, metrics and embeddings at fixed test images. Nothing is trained: claims (a) to (e) and (g) on
every data set and family; what decides the norm of an image (its class, its distance from known images, lines between
classes); norms as a detector of unknown images. Rule and gates are those of the library (osrjax/metrics/effects.py,
osrjax/report/verdicts.py). The number of known classes (f), the parts and values of the recipe (h) and the halves of
the loss (i) need trainings of their own, the studies of experiments/benchmark.py; their rule: osrjax/report/studies.py.
m-OvR and softmax of the study of the recipe answer (a) to (e) and (g) of data that have no other entries.

Written to OUT: claims.txt, .md, .csv and .json (every effect of every method), figures/ as PNG and SVG, by their number
in the paper where they have one; --pages makes the tables and figures of pages anew. 25 s of a core, with figures
90 s. Exit code 2: bad input, nothing written.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import osrjax
from osrjax.run.launch import EntriesConfig, launch


@dataclasses.dataclass(frozen=True)
class Config(EntriesConfig):
    """Decide claims."""

    out: Path = Path("runs/claims")
    """Where tables and figures go."""
    format: Literal["text", "markdown", "csv"] = "text"
    """What is printed; all are written."""
    draw: bool = True
    """Draw the figures."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, decides; returns the exit code."""
    return launch(Config, decide, script="claims.py", description=__doc__, arguments=arguments)


def decide(config: Config) -> int:
    """The whole job; returns the exit code."""
    report = osrjax.report
    entries = [osrjax.run.read_entry(place) for place in osrjax.run.find_entries(config.entries)]
    studies, methods = report.study_tables(entries), report.claim_entries(entries)
    tables = report.claim_tables(methods) if methods or not studies else []
    found = report.claims_texts(tables, studies)
    drawn = [(table.name, report.claim_figures(table)) for table in (tables if config.draw else ())]
    drawn += [(study.name, report.study_figures(study)) for study in (studies if config.draw else ())]
    figures = {f"{table}-{name}": figure for table, of_table in drawn for name, figure in of_table.items()}

    # ---------------------------------------------------------------------------------- write
    texts = {"txt": found.text + "\n", "md": f"# Claims\n\n{found.markdown}", "csv": found.csv}
    numbers = {**found.numbers, "entries": report.entry_sources(entries)}
    written = report.write_tables(
        config.out, "claims", texts, numbers, figures, pages=config.pages, blocks=found.blocks
    )
    print(getattr(found, config.format).rstrip())
    print(f"{len(entries)} entries, {written}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
