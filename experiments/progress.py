"""How accurate is a network after how many seconds of training? One curve a run.

    python experiments/progress.py runs/NAME
    python experiments/progress.py runs/ONE runs/TWO --out docs/progress

Accuracy on known validation images at every checkpoint of experiments/train.py (`--save-every`), over the time of the
steps alone. Writes OUT.png and OUT.svg. Seconds.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

import osrjax
from osrjax.run.launch import launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw accuracy against seconds."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories of experiments/train.py."""
    out: Path | None = None
    """Path without suffix; default: progress in the first run."""

    def check(self) -> None:
        """Refuses no run."""
        if not self.runs:
            raise ValueError("runs=() leaves nothing to draw: give a run directory")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, draws; returns the exit code."""
    return launch(Config, draw, script="progress.py", description=__doc__, arguments=arguments)


def draw(config: Config) -> int:
    """The whole job; returns the exit code."""
    curves = {str(run): osrjax.run.validation_curve(run) for run in config.runs}
    figure = osrjax.report.progress_figure({Path(name).name: curve for name, curve in curves.items()})
    for path in osrjax.report.save_figure(figure, config.out or config.runs[0] / "progress"):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
