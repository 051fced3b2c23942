"""How fast are exact norms of input Jacobians, beside PyTorch on the same machine, and in how much memory?

    python experiments/speed.py --what jacobian                                   WRN-16-4: 8 min on two cores
    python experiments/speed.py --what jacobian --batch 2 --chunks 8 32           5 min
    python experiments/speed.py --what jacobian --networks small_cnn --no-grid    2 min

Exact norms of the unit embedding's Jacobian, by our default and by chunks of its rows, beside PyTorch's three routes to
the whole matrix; the fastest of each side counts. "one pass" is a single pass of some cotangents or tangents, timed
alone and scaled up to all of them. "gradient of a norm": of the mean norm of the logits, by the parameters, as a
regulariser takes it, beside jax.grad through jax.vmap(jax.jacrev). Times are the 0.2 quantiles of blocks of calls
(turns.py says why).

The last line is one JSON object. `ratio`: the time of the fastest peer over ours, above 1 where ours is faster.
`peak_mib`: the memory of our default for 128 images. `overhead`: its time over that of as many cotangents as outputs at
the best time of one. `auto`: how often the automatic choice of forward or reverse mode was right, of those cases where
one of them takes 20 % longer. With several networks these are the least favourable ones; `ratio` and `overhead` are
null where a side is unreliable, which `reliable`, `unreliable` and `spreads` tell.
"""

import dataclasses
import sys
from typing import Any

import comparison
import jacobian_passes
import tyro
from comparison import image_shape
from turns import SHORTEST_BLOCK, Measured, SideProcess, Verdict, compare, take_turns, unreliable


@dataclasses.dataclass(frozen=True)
class Config(comparison.PeerConfig):
    """Measure the exact norms of the unit embedding's input Jacobian, and their memory."""

    networks: tuple[comparison.Network, ...] = ("wrn16_4",)
    """Networks to measure, one after another."""
    batch: int | None = None
    """Images at a time; default: 32 for small_cnn on 28x28x1 images, 4 for the others on 32x32x3."""
    repeats: int = 5
    """Turns of every side, the first of which is left out."""
    default_options: bool = False
    """Measure ours without the compiler options of osrjax.devices.cpu too, and without canonical convolutions."""
    chunks: tuple[int, ...] = (1, 2, 8, 32)
    """Chunk sizes of our norms, beside the default one."""
    memory_batch: int = 128
    """Images of the programs that are only compiled, for their memory."""
    grid: bool = True
    """Compare the automatic choice of the mode with the faster mode: two minutes."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.smoke:
        smoke = dataclasses.replace(config, networks=("small_cnn",), batch=2, repeats=3)
        config = dataclasses.replace(smoke, chunks=(3,), memory_batch=2)
    return comparison.report("jacobian", config, refusal(config), lambda: jacobian_speed(config))


def refusal(config: Config) -> str | None:
    """Why a configuration cannot be measured."""
    if config.memory_batch < 1:
        return f"memory-batch={config.memory_batch} holds no image: give 1 or more"
    if min(config.chunks, default=1) < 1:
        return f"chunks={min(config.chunks)} makes no progress: give 1 or more"
    return comparison.refusal(config, least_batch=1)


# ---------------------------------------------------------------------------------------------- time


def jacobian_speed(config: Config) -> dict[str, Any]:
    """Prints and gives time and memory of exact input-Jacobian norms."""
    torch = comparison.peer_python(config)
    found: dict[str, Verdict] = {}
    overheads: dict[str, Verdict] = {}
    measured, milliseconds, medians, programs, machine = {}, {}, {}, {}, {}
    print(f"{'case':10} {'who':35} {'batch':>5} {'ms/image':>9} {'MiB':>9} {'spread':>6} {'ours / peer':>12}")
    for network in config.networks:
        batch = config.batch or (32 if network == "small_cnn" else 4)
        case = {"network": network, "batch": batch}
        passes = ((batch, 2),) if config.smoke else jacobian_passes.PASSES
        mine = {**case, "chunks": config.chunks, "passes": passes, "default_options": config.default_options}
        theirs = "torch_peers:jacobian_norms", {**case, "image_shape": image_shape(network)}
        with comparison.both_sides(("jacobian_passes:norms_and_passes", mine), theirs, torch) as sides:
            seen = take_turns(sides, config.repeats)
            machine |= comparison.ran_on(sides)
        facts, peers = sides[0].facts, sides[1].names if len(sides) > 1 else []
        seen = measured[network] = seen.per({**dict.fromkeys(peers, batch), **facts["images"]})
        print_times(network, batch, seen, facts, peers)
        if peers:
            found[network] = compare(seen, facts["ours"], peers)
        overheads[f"{network}, overhead"] = overhead(seen, facts["passes"])
        milliseconds[network] = {who: round(1e3 * seen.best(who), 3) for who in seen.seconds}
        medians[network] = {who: round(1e3 * seen.median(who), 3) for who in seen.seconds}
        programs[network] = compiled_memory(network, config)
    peaks = {network: mib[jacobian_passes.OURS] for network, mib in programs.items()}
    reliability = comparison.reliability(found | overheads, measured)
    ratios = {network: verdict.ratio for network, verdict in found.items()}
    over = {network: overheads[f"{network}, overhead"].ratio for network in config.networks}
    return {
        "ratio": comparison.of_all(min, ratios.values()),
        "peak_mib": max(peaks.values()),
        "overhead": comparison.of_all(max, over.values()),
        "ratios": ratios or None,
        "ratio_quartiles": {network: verdict.quartiles for network, verdict in found.items()} or None,
        "peaks_mib": peaks,
        "overheads": over,
        "auto": automatic_choice(smoke=config.smoke) if config.grid else None,
        "ms_per_image": milliseconds,
        "ms_per_image_median": medians,
        f"mib_at_batch_{config.memory_batch}": programs,
        **reliability,
        **machine,
    }


def print_times(network: str, batch: int, seen: Measured, facts: dict[str, Any], peers: list[str]) -> None:
    """Prints the table of a network."""
    for who in seen.seconds:
        whole = who in (*peers, *facts["ours"], *facts["without"], *facts["gradients"])
        note = "" if whole else "extrapolated"
        if who == jacobian_passes.GRADIENT:
            note = comparison.relation(compare(seen, [jacobian_passes.OUR_GRADIENT], [who]).ratio)
        if who in peers or who in facts["without"]:
            note = comparison.relation(compare(seen, facts["ours"], [who]).ratio)
        images, memory = str(batch) if whole else "", facts["mib"].get(who)
        figures = f"{images:>5} {1e3 * seen.best(who):9.2f} {'' if memory is None else f'{memory:.1f}':>9}"
        print(f"{network:10} {who:35} {figures} {seen.spread(who):6.2f} {note:>12}", flush=True)


def overhead(seen: Measured, passes: list[str]) -> Verdict:
    """The time of our default over that of the best pass."""
    ours = jacobian_passes.OURS
    reason = unreliable(seen, [ours, *passes])
    ratio = None if reason else round(seen.best(ours) / min(seen.best(who) for who in passes), 3)
    return Verdict(ratio, None, reason)


# ---------------------------------------------------------------------------------------------- memory, choice


def compiled_memory(network: str, config: Config) -> dict[str, float]:
    """Prints and gives the MiB of programs of a large batch, which are compiled and never run."""
    asked = {"network": network, "batch": config.memory_batch, "chunks": config.chunks}
    with SideProcess("jacobian_passes:compiled_memory", asked) as side:
        programs: dict[str, float] = side.facts["mib"]
    for who, mib in programs.items():
        print(f"{network:10} {who:35} {config.memory_batch:5d} {'':9} {mib:9.1f} {'':6} {'compiled':>12}", flush=True)
    return programs


def automatic_choice(*, smoke: bool) -> dict[str, int]:
    """Prints the times of both modes on a grid of inputs and outputs; counts where the automatic choice is right."""
    print(f"{'inputs':>10} {'outputs':>8} {'forward, ms':>12} {'reverse, ms':>12}  automatic")
    counts = {"cells": 0, "clear": 0, "right": 0, "unreliable": 0}
    grid = jacobian_passes.SMOKE_GRID if smoke else jacobian_passes.GRID
    with SideProcess("jacobian_passes:both_modes", {"cells": grid}) as side:
        for (shape, outputs), cell in zip(grid, side.facts["cells"], strict=True):
            names = [who for mode in cell["names"].values() for who in mode]
            seen = take_turns([side], 3, names=names, shortest=SHORTEST_BLOCK / 4)
            best = {mode: min(map(seen.best, whos)) / side.facts["batch"] for mode, whos in cell["names"].items()}
            chosen, disturbed = cell["chosen"], unreliable(seen, names) is not None
            clear = not disturbed and max(best.values()) > 1.2 * min(best.values())
            right = clear and chosen == min(best, key=best.__getitem__)
            verdict = comparison.UNRELIABLE if disturbed else "right" if right else "WRONG" if clear else ""
            counts["cells"] += 1
            counts["clear"] += clear
            counts["right"] += right
            counts["unreliable"] += disturbed
            times = f"{1e3 * best['forward']:12.2f} {1e3 * best['reverse']:12.2f}"
            print(f"{'x'.join(map(str, shape)):>10} {outputs:8d} {times}  {chosen} {verdict}", flush=True)
    return counts


if __name__ == "__main__":
    sys.exit(main())
