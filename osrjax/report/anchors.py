"""Published numbers that were verified, for the tables that they belong to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from osrjax.report.leaderboard import ResultTable

__all__ = ["Anchor", "published_anchors"]


class Anchor(NamedTuple):
    """A published number that was verified, to be shown beside ours and never counted among them.

    Attributes:
      dataset: as of a table; it belongs there alone.
      family: as of a table.
      unknown: as of a table.
      label: what was trained.
      score: what it was scored by.
      values: by metric.
      runs: over what the mean was taken.
      source: where it stands.
    """

    dataset: str
    family: str
    unknown: str
    label: str
    score: str
    values: Mapping[str, float]
    runs: str
    source: str


def published_anchors(table: ResultTable) -> list[Anchor]:
    """The published numbers that were verified and belong beside a table.

    Args:
      table: its data set, family and unknown set must be those of the publication.
    """
    text = Path(__file__).with_name("anchors.json").read_text(encoding="utf-8")
    anchors = [Anchor(**found) for found in json.loads(text)]
    return [anchor for anchor in anchors if anchor[:3] == table[:3]]
