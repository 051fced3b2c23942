"""How well do the outputs of ANY network tell unknown images? Every score, every metric, from one npz file.

    python experiments/evaluate.py outputs.npz
    python experiments/evaluate.py outputs.npz --cosines 16                     logits are cosines, to be times 16
    python experiments/evaluate.py runs/NAME                                    a finished run, scored again
    python experiments/evaluate.py outputs.npz --own my_scores:margin           a score of one's own as well

The file holds logits and embeddings of known training, known validation, known test and unknown test images, made by
any framework (osrjax/evaluation/outputs.py has the names of its arrays; experiments/examples/make_outputs.py makes
one). Scores whose arrays are missing are listed with what they need. Thresholds come from the known validation images.

Written to OUT: results.json and results.txt (the table), figures/. Seconds. Exit code 2: bad input, nothing written.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

import osrjax
from osrjax.choices import load_own
from osrjax.fields import check_above_zero, check_not_negative
from osrjax.run.launch import launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Score stored outputs."""

    file: Annotated[Path, tyro.conf.Positional]
    """An npz file of outputs, or the directory of a finished run."""
    cosines: float | None = None
    """T, where the logits are unscaled cosines; of a run that is known."""
    own: tuple[str, ...] = ()
    """Scores of one's own as MODULE:FUNCTION: (rows, train rows, train labels) -> one score per image."""
    score: str | None = None
    """The score that the histogram shows; default: the first."""
    reject_share: float = 0.1
    """Share of known validation images that the threshold of macro-F1 rejects."""
    resamples: int = 1000
    """Bootstrap resamples of the intervals over test images; 0: none."""
    out: Path | None = None
    """Where results go; default: the file's path with .evaluation in place of its suffix, RUN/evaluation of a run."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        check_not_negative(self, ["resamples"])
        if self.cosines is not None:
            check_above_zero(self, ["cosines"])
        if not 0 < self.reject_share < 1:
            raise ValueError(f"reject_share={self.reject_share!r} must be between 0 and 1, such as 0.1")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, scores; returns the exit code."""
    return launch(Config, evaluate, script="evaluate.py", description=__doc__, arguments=arguments)


def evaluate(config: Config) -> int:
    """The whole job; returns the exit code."""
    own = {path: load_own(path) for path in config.own}

    # --------------------------------------------------------------------------------- scores
    stored = osrjax.evaluation.read_outputs(outputs_file(config.file), cosines=cosines_of(config))
    scored, missing = osrjax.evaluation.score_outputs(stored, own=own)
    if not scored:
        raise ValueError(f"file={str(config.file)!r} allows no score: {'; '.join(missing.values())}")
    first = config.score or next(iter(scored))
    if first not in scored:
        raise ValueError(f"score={first!r} is not among those of this file: choose from {', '.join(scored)}")

    # -------------------------------------------------------------------------------- metrics
    known = stored.outputs["known"]
    spaces = {"davies_bouldin": known["embedding" if "embedding" in known else "logits"]}
    found = osrjax.evaluation.assess_scored(
        *(scored, stored.labels),
        score=first,
        spaces=spaces,
        reject_share=config.reject_share,
        resamples=config.resamples,
    ).results

    # ---------------------------------------------------------------------------------- write
    out = config.out or (config.file / "evaluation" if config.file.is_dir() else config.file.with_suffix(".evaluation"))
    table = table_of(found, missing, first)
    with osrjax.files.writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with osrjax.files.writing(out / "figures"):
        osrjax.report.draw_scores(out / "figures", scored, stored.labels["known"], own=first)
    results = {**found, "score": first, "not_applicable": missing, "table": table}
    osrjax.files.write_whole(out / "results.txt", (table + "\n").encode())
    osrjax.files.write_json(out / "results.json", results)
    print(f"{table}\nwritten to {out}")
    return 0


def outputs_file(path: Path) -> Path:
    """The npz file, or scores.npz of a run."""
    if not path.exists():
        raise ValueError(f"file={str(path)!r} does not exist: give an npz file of outputs, or a finished run")
    if path.is_dir():
        osrjax.run.check_files(path, ("config.json", "provenance.json", "scores.npz"), argument="file")
        return path / "scores.npz"
    return path


def cosines_of(config: Config) -> float | None:
    """T of a run whose logits are cosines, or what the user says."""
    if config.cosines is not None or not config.file.is_dir():
        return config.cosines
    run = osrjax.run.open_finished(config.file, argument="file", needed=("config.json", "provenance.json"))
    loss = osrjax.methods.CLASS_LOSSES.get(run.config["method"])
    return float(run.config["scale"]) if loss is not None and loss.head == "cosine" else None


def table_of(found: dict[str, Any], missing: dict[str, str], first: str) -> str:
    """One row per score, then what is not applicable."""
    lines = [
        osrjax.report.open_set_table(found["scores"], None, score=first),
        f"* shown in the histogram; unknown = positive; [95 % bootstrap interval over {found['known_images']} known and"
        f" {found['unknown_images']} unknown images]",
        *(f"not applicable: {name} ({why})" for name, why in missing.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
