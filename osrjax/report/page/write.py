"""From a directory to its page."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from osrjax.data import OpenSetData
from osrjax.evaluation import ScoredImages
from osrjax.files import check_local, check_no_links, read_json, reading, write_whole
from osrjax.report.page.elements import GET_DRAWINGS, REMEDY, has_drawings, render
from osrjax.report.page.grids import benchmark_page, claims_page, comparison_page
from osrjax.report.page.run import RunImages, images_of_run, run_page
from osrjax.report.page.sweep import sweep_page
from osrjax.run.directory import PAGE
from osrjax.run.entries import MANIFEST
from osrjax.run.finished import FinishedRun

__all__ = ["leave_page", "write_page"]


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
    table = place.with_name(f"{place.name}.json")
    with reading(place, "restore its files, or give the command that made it again"):
        if {"config.json", "results.json", "results.csv"} <= there:
            page = sweep_page(place)
        elif {"config.json", "results.json"} <= there:
            page = run_page(place, images_of_run(run) if run is not None else RunImages(scored or {}, data))
        elif "claims.json" in there:
            page = claims_page(place)
        elif table.is_file() and not table.is_symlink():
            page = comparison_page(place)
        else:
            page = benchmark_page(place) if any(place.rglob(MANIFEST)) else None
        content = render(page) if page is not None else ""
    if page is None:
        begun = "config.json" in there
        remedy = "finish its training first" if begun else "give a run, sweep, comparison or entries"
        raise ValueError(f"run={str(place)!r} holds nothing that is finished: {remedy}")
    path = place / PAGE
    write_whole(path, content.encode())
    return path


def leave_page(
    place: Path,
    *,
    scored: Mapping[str, ScoredImages] | None = None,
    data: OpenSetData | None = None,
    following: str | None = None,
) -> None:
    """Writes the page at the end of a run, says where it is and what to do next.

    What cannot be drawn costs one line, not the run.

    Args:
      place: as for :func:`write_page`, as are the others.
      scored: of a run.
      data: of a run.
      following: the next command; None: that of a run, where it is one.
    """
    quoted = shlex.quote(str(place))
    try:
        path = write_page(place, scored=scored, data=data)
    except Exception as error:  # all numbers are written by now
        reason = " ".join(str(error).splitlines()) or type(error).__name__
        print(f"no page: {reason} (osrjax report {quoted} tries again)", file=sys.stderr)
    else:
        print(f"page: {path}" + ("" if has_drawings() else f" (without {GET_DRAWINGS})"))
    if following is None and (place / "network.npz").is_file():
        method = read_json(place / "config.json", REMEDY)["method"]
        own = f" --own-method {shlex.quote(method)}" if ":" in method else ""
        following = f"osrjax predict {quoted} image.png{own}; osrjax evaluate {quoted} --images{own}"
    if following is not None:
        print(f"next: {following}")
