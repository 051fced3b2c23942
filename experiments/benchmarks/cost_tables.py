"""The tables of costs.py: what a step costs each chip, how long that takes, and from which batch on talk is hidden."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax

from osrjax.analysis import costs


class Row(NamedTuple):
    """A preset's step at one number of chips and one batch."""

    preset: str
    how: str
    cost: costs.StepCost


class Call(NamedTuple):
    """A call of norms or of a sweep.

    Attributes:
      preset: its name.
      at_a_time: on each chip, images x passes or lanes x images.
      count: calls of the whole work.
      exact: whether products are taken at the highest precision.
      cost: of a call.
    """

    preset: str
    at_a_time: str
    count: int
    exact: bool
    cost: costs.StepCost


def by_purpose(cost: costs.StepCost) -> dict[str, dict[str, float]]:
    """Number of collectives that are mainly for a purpose, and all megabytes that a chip sends for it."""
    found = {}
    for purpose in costs.PURPOSES:
        count = sum(one.purpose == purpose for one in cost.collectives)
        parts = [one.sent(cost.devices) * getattr(one, purpose) / one.size for one in cost.collectives if one.size]
        found[purpose] = {"count": count, "sent_mb": sum(parts) / 1e6}
    return found


def table(head: list[str], lines: list[list[str]]) -> str:
    """Columns as wide as they need to be; the first one to the left."""
    rows = [head, *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def cost_table(rows: list[Row], platform: str) -> str:
    """What a step costs each chip, whatever the chip: operations, bytes, collectives."""
    lines = []
    for preset, how, cost in rows:
        parts = by_purpose(cost)
        told = [f"{int(part['count'])}: {number(part['sent_mb'])}" for part in parts.values()]
        figures = cost.flops / 1e9, cost.accessed / 1e9, cost.peak / 2**30
        lines.append([preset, how, str(cost.devices), str(cost.batch), *map(number, figures), *told])
    head = ["a step on each chip", "scaling", "chips", "images", "GFLOP", "GB", "GiB held"]
    return f"compiled for {platform}; collectives as NUMBER: MB sent by a chip\n" + table(
        head + ["gradients", "statistics", "rows"], lines
    )


def time_table(rows: list[Row], name: str, chip: costs.Chip) -> str:
    """Times of a step on a chip under both scalings, and the batches from which on communication hides."""
    found: dict[tuple[str, int], dict[str, costs.StepCost]] = {}
    for preset, how, cost in rows:
        found.setdefault((preset, cost.devices), {})[how] = cost
    lines = []
    for (preset, devices), by_scaling in found.items():
        line = [preset, str(devices)]
        for cost in (by_scaling.get(how, by_scaling.get("both")) for how in ("weak", "strong")):
            if cost is None:
                line += ["-"] * 3
                continue
            seconds = cost.arithmetic_seconds(chip), cost.communication_seconds(chip)
            line += [str(cost.batch), *(number(1e3 * part) for part in seconds)]
        latency = max(len(cost.collectives) for cost in by_scaling.values()) * chip.latency(devices)
        line.append(number(1e3 * latency))
        for share in (1.0, 0.1):
            if devices == 1 or len(by_scaling) < 2:
                line.append("-")
                continue
            batch = costs.break_even_batch(list(by_scaling.values()), chip, share=share)
            line.append("never" if batch is None else f"{math.ceil(batch)}")
        lines.append(line)
    weak, strong = (["images", f"{how}: arithmetic", "talk"] for how in ("weak", "strong"))
    return table([f"ms on {name}", "chips", *weak, *strong, "latency", "hidden from", "a tenth"], lines)


def call_table(calls: list[Call], platform: str) -> str:
    """What a call costs each chip, whatever the chip."""
    lines = []
    for preset, at_a_time, count, _, cost in calls:
        figures = map(number, (cost.flops / 1e9, cost.accessed / 1e9, cost.peak / 2**30))
        lines.append([preset, str(cost.devices), at_a_time, str(count), *figures, str(len(cost.collectives))])
    head = ["a call on each chip", "chips", "at a time", "calls", "GFLOP", "GB", "GiB held", "collectives"]
    return f"compiled for {platform}\n" + table(head, lines)


def hours_of(call: Call, chip: costs.Chip) -> float:
    """Hours of all calls, at best."""
    if call.exact:
        chip = chip.at_highest_precision()
    return call.count * call.cost.arithmetic_seconds(chip) / 3600


def hours_table(calls: list[Call], chips: dict[str, costs.Chip]) -> str:
    """Hours of the whole work, chip-hours, and the hours that operations alone would take."""
    lines = []
    for call in calls:
        line = [call.preset, str(call.cost.devices)]
        for chip in chips.values():
            hours = hours_of(call, chip)
            alone = hours_of(call._replace(cost=dataclasses.replace(call.cost, accessed=0.0)), chip)
            line += map(number, (hours, alone, hours * call.cost.devices))
        lines.append(line)
    heads = [word for name in chips for word in (f"{name}: hours", "operations", "chip-hours")]
    return table(["the whole work, at best", "chips", *heads], lines)


def call_summary(calls: list[Call], chips: dict[str, costs.Chip]) -> list[dict[str, Any]]:
    """Everything that the tables of calls say."""
    return [
        {"preset": call.preset, "chips": call.cost.devices, "at_a_time": call.at_a_time, "calls": call.count}
        | {"flops": call.cost.flops, "bytes_accessed": call.cost.accessed, "bytes_held": call.cost.peak}
        | {"collectives": len(call.cost.collectives)}
        | {"hours": {name: hours_of(call, chip) for name, chip in chips.items()}}
        for call in calls
    ]


def summary(rows: list[Row], chips: dict[str, costs.Chip], platform: str) -> dict[str, Any]:
    """Everything that the tables say, and what they were made with."""
    found = []
    for preset, how, cost in rows:
        times = {
            name: {
                "arithmetic_seconds": cost.arithmetic_seconds(chip),
                "communication_seconds": cost.communication_seconds(chip),
            }
            for name, chip in chips.items()
        }
        figures = {"flops": cost.flops, "bytes_accessed": cost.accessed, "bytes_held": cost.peak}
        found.append(
            {"preset": preset, "scaling": how, "chips": cost.devices, "images_per_chip": cost.batch, **figures}
            | {"collectives": by_purpose(cost), "times": times}
        )
    made_with = {"platform": platform, "jax": jax.__version__}
    return {**made_with, "chips": {name: chip._asdict() for name, chip in chips.items()}, "steps": found}
