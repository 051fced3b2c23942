"""The table of accelerator.py, from what its jobs have told."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTHS = (46, 10, 10, 7, 10, 12, 12, 13)


def report_text(report: Mapping[str, Any]) -> str:
    """Everything, part by part.

    Args:
        report: as accelerator.json has it.
    """
    sections = [header(report)]
    jobs = report["jobs"]
    for part, state in report["parts"].items():
        lines = [f"{part}: {state}"]
        if found := jobs.get(part):
            peers = jobs.get(f"{part}-torch", {"cases": {}})["cases"]
            tables = {"numerics": numerics_lines, "cifar10-fast": training_lines}
            lines += tables[part](found["cases"]) if part in tables else speed_lines(found["cases"], peers)
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def header(report: Mapping[str, Any]) -> str:
    """Device, memory, versions, peers."""
    facts, peers = report["device"], report["torch"]
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    lines = [
        f"device: {facts.get('device')} ({facts.get('platform')}), memory for JAX: {_number(facts.get('mib'), 0)} MiB",
        f"versions: {versions}; default precision of products: {facts.get('default_matmul_precision')}",
    ]
    if isinstance(peers, str):
        return "\n".join([*lines, f"PyTorch: {peers}"])
    versions = ", ".join(f"{name} {version}" for name, version in peers["versions"].items())
    return "\n".join([*lines, f"PyTorch: {versions} on {peers['device']}"])


def passed(row: Mapping[str, Any]) -> bool:
    """Whether a row of numerics keeps its limit, if it has one."""
    return row["limit"] is None or row["error"] <= row["limit"]


def numerics_lines(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each comparison, with PASS or FAIL where there is a limit."""
    lines = [f"{'accelerator against CPU':72} {'error':>9} {'limit':>9}"]
    for name, found in cases.items():
        if "error" in found:
            lines.append(f"{name}: {found['error']}")
        for row in found.get("rows", ()):
            told = ("PASS" if passed(row) else "FAIL") if row["limit"] is not None else ""
            limit = "" if row["limit"] is None else f"{row['limit']:.1e}"
            lines.append(f"{f'{name}: ' + row['what']:72} {row['error']:9.1e} {limit:>9} {told}".rstrip())
    return lines


def speed_lines(cases: Mapping[str, Mapping[str, Any]], peers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each case of ours, followed by those of its peers."""
    titles = ("case", "ms", "us each", "spread", "compile s", "program MiB", "peak MiB", "torch / ours")
    lines = [_line(titles)]
    for name, found in cases.items():
        theirs = {who: peer for who, peer in peers.items() if who.startswith(f"{name}: ")}
        times = [peer["ms"] for peer in theirs.values() if "ms" in peer]
        ratio = min(times) / found["ms"] if times and "ms" in found else None
        lines += [_speed_line(name, found, ratio)]
        lines += [_speed_line("  " + who.removeprefix(f"{name}: "), peer, None) for who, peer in theirs.items()]
    return lines


def _speed_line(name: str, found: Mapping[str, Any], ratio: float | None) -> str:
    if "error" in found:
        return f"{name:{WIDTHS[0]}} {found['error']}"
    each = 1e3 * found["ms"] / found["count"]
    memory = (_number(found["program_mib"], 1), _number(found["peak_mib"], 1))
    numbers = (f"{found['ms']:.3f}", f"{each:.2f}", f"{found['spread']:.2f}", f"{found['compile_seconds']:.1f}")
    return _line((name, *numbers, *memory, _number(ratio, 2, missing="")))


def training_lines(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Seconds, accuracy and AUROC of the training."""
    lines = []
    for name, found in cases.items():
        if "error" in found:
            lines.append(f"{name}: {found['error']}")
            continue
        accuracy, resumed = found["closed_set_accuracy"], " since it was resumed" if found["resumed"] else ""
        scores = ", ".join(f"{_number(auroc['value'], 3)} ({score})" for score, auroc in found["auroc"].items())
        lines.append(f"{found['seconds']:.1f} s{resumed} for {found['steps']} steps and all that follows")
        lines.append(f"closed-set accuracy {_number(accuracy['value'], 3)}; AUROC {scores}")
    return lines


def _line(values: Sequence[str]) -> str:
    first, *others = zip(values, WIDTHS, strict=True)
    return " ".join([f"{first[0]:{first[1]}}", *(f"{value:>{width}}" for value, width in others)]).rstrip()


def _number(value: float | None, digits: int, *, missing: str = "-") -> str:
    return missing if value is None else f"{value:.{digits}f}"
