"""From a directory to its page."""

import sys
from collections.abc import Mapping
from pathlib import Path

from osrjax.data import OpenSetData
from osrjax.evaluation import ScoredImages
from osrjax.files import check_local, check_no_links, write_whole
from osrjax.report.page.elements import render
from osrjax.report.page.grids import benchmark_page, claims_page, comparison_page, sweep_page
from osrjax.report.page.run import RunImages, images_of_run, run_page
from osrjax.run.entries import MANIFEST
from osrjax.run.finished import FinishedRun

__all__ = ["leave_page", "write_page"]

PAGE = "page.html"


def write_page(
    place: Path,
    *,
    run: FinishedRun | None = None,
    scored: Mapping[str, ScoredImages] | None = None,
    data: OpenSetData | None = None,
) -> Path:
    """Writes page.html into the directory of something that is finished.

    Args:
      place: the directory of a run, of an ablation, of a comparison (OUT/TABLE), of jacobian.py (OUT/TABLE), or one
        with entries of a benchmark at any depth.
      run: the same run, opened again: its scores and images are looked for.
      scored: in place of that, of a run that has just ended, its scored images by name.
      data: of such a run.

    Returns:
      The path of the page, a file of less than 3 MB that refers to nothing outside.

    Raises:
      ValueError: the directory is none of these, holds a link or a damaged file.
    """
    check_local("run", place)
    if not place.is_dir():
        raise ValueError(f"run={str(place)!r} is no directory: give that of a finished run, sweep or comparison")
    check_no_links(place)
    there = {path.name for path in place.iterdir()}
    if {"config.json", "results.json", "results.csv"} <= there:
        page = sweep_page(place)
    elif {"config.json", "results.json"} <= there:
        images = images_of_run(run) if run is not None else RunImages(scored or {}, data)
        page = run_page(place, images)
    elif "claims.json" in there:
        page = claims_page(place)
    elif (table := place.with_name(f"{place.name}.json")).is_file() and not table.is_symlink():
        page = comparison_page(place)
    elif any(place.rglob(MANIFEST)):
        page = benchmark_page(place)
    else:
        raise ValueError(f"run={str(place)!r} holds nothing that is finished: give a run, sweep, comparison or entries")
    path = place / PAGE
    write_whole(path, render(page).encode())
    return path


def leave_page(
    place: Path, *, scored: Mapping[str, ScoredImages] | None = None, data: OpenSetData | None = None
) -> None:
    """Writes the page at the end of a run, and says where it is; what cannot be drawn costs one line, not the run.

    Args:
      place: as for :func:`write_page`, as are the others.
      scored: of a run.
      data: of a run.
    """
    try:
        print(f"page: {write_page(place, scored=scored, data=data)}")
    except Exception as error:  # all numbers are written by now
        reason = " ".join(str(error).splitlines()) or type(error).__name__
        print(f"no page: {reason} (experiments/report.py {place} tries again)", file=sys.stderr)
