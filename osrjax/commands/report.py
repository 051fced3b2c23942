"""What came out? One HTML page for each finished run, sweep, comparison or benchmark, to be opened from disk.

    osrjax report runs/NAME                          a run of train.py or contrastive.py, or an ablation
    osrjax report runs/compare/bundled               a comparison: OUT/TABLE of compare.py
    osrjax report runs/jacobian/bundled              claims: OUT/TABLE of jacobian.py
    osrjax report experiments/results/entries        a benchmark: manifests at any depth
    osrjax report runs/NAME --data npz:moved.npz     images of a run whose data has moved

Every script that trains leaves such a page, DIRECTORY/page.html; this one makes it again. Figures that can be looked
into need `pip install 'osrjax[page]'`. Seconds each. Exit code 2: bad input.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

import osrjax
from osrjax.fields import check_directories
from osrjax.run.launch import MovedConfig, launch


@dataclasses.dataclass(frozen=True)
class Config(MovedConfig):
    """Write pages."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Directories of finished runs, sweeps, comparisons and benchmarks."""

    def check(self) -> None:
        """Refuses a command that asks for nothing."""
        check_directories(self, "runs", "the directory of a finished run")


def main(arguments: list[str] | None = None, *, script: str = "report.py") -> int:
    """Parses, checks, writes; returns the exit code."""
    return launch(Config, write, script=script, description=__doc__, arguments=arguments)


def write(config: Config) -> int:
    """The whole job; returns the exit code."""
    for place in config.runs:
        run = config.open_run(place, argument="runs") if (place / "network.npz").is_file() else None
        print(osrjax.report.write_page(place, run=run))
    return 0
