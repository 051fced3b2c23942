"""Which method detects unknown classes best, on which protocol? Every method x split x seed, each cell kept for good.

    python experiments/benchmark.py mnist --data npz:mnist.npz
    python experiments/benchmark.py cifar10 --data npz:cifar10.npz --family split_2020 --methods m-OvR softmax ARPL
    python experiments/benchmark.py cifar+N --data npz:cifar10.npz --unknown-data npz:cifar100_test.npz --seeds 3
    python experiments/benchmark.py ood --data npz:cifar10.npz --against npz:svhn_test10k.npz npz:cifar100_test.npz
    python experiments/benchmark.py gray --data npz:mnist.npz --against npz:notmnist.npz npz:omniglot.npz
    python experiments/benchmark.py crops --data npz:cifar10.npz --against folder:LSUN_crop folder:ImageNet_resize
    python experiments/benchmark.py mnist --methods m-OvR my_losses:focal       a method of one's own, MODULE:FUNCTION
    python experiments/benchmark.py mnist --data npz:mnist.npz --study halves   other arms than methods: a study
    python experiments/benchmark.py fashion_mnist --data npz:fashion_mnist.npz --study mixing --against npz:notmnist.npz
    python experiments/leaderboard.py experiments/results/entries               the tables of what is there

A cell is one training (train.py, or contrastive.py for SupCon and GradMix) and its scores (evaluate.py). It is done
when its manifest lies among the entries, wherever it was made: the same command goes on from there, on any machine.
What it trains in RUNS can be deleted; a training that was stopped goes on from there. Protocols: splits of a family
(mnist, fashion_mnist by the lists of mnist, svhn, cifar10, tiny_imagenet; cifar+N: one training for cifar+10 and
cifar+50), and all classes of a set against whole other sets (gray, ood, crops). Splits that repeat the known classes of
another are left out.

Studies, for the claims that need trainings of their own (experiments/claims.py reads their entries): halves of the loss
(i); recipe, parts left out and values around the defaults (h); classes, the number K of known ones (f), where a split
is a class order whose first K are known and whose last two are unknown. Trainings on gray images are shorter there, but
for (f) on Fashion-MNIST; and the arms that a claim needs probes of are probed without being asked for. For
leaderboard.py: mixing of contrastive training, mixing-m-ovr and mixing-softmax of classifiers. Their runs classify
corrupted images too (corruption.json of the entry) and, where asked for, detect those of other sets: --against makes a
further entry of each, in the cell's. A cell that lacks some of these is made anew from its run, and trained again where
that is gone.

Exit codes: 0 done, 1 some cells failed (their logs are named), 2 bad input, nothing was started.
"""

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

import osrjax
from osrjax.data.splits import NUM_CLASSES, class_split, distinct_splits, nested_split, split_dataset
from osrjax.data.table import set_name
from osrjax.fields import check_above_zero, check_named_once, check_not_negative
from osrjax.files import read_json
from osrjax.run.launch import launch

MANIFEST = "manifest.json"  # of osrjax.run.entries, which would load JAX before a refusal
HERE = Path(__file__).parent
Protocol = Literal["mnist", "fashion_mnist", "svhn", "cifar10", "cifar+N", "tiny_imagenet", "gray", "ood", "crops"]
Study = Literal["methods", "halves", "recipe", "classes", "mixing", "mixing-m-ovr", "mixing-softmax"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Train and score what is missing of a protocol."""

    protocol: Annotated[Protocol, tyro.conf.Positional]
    """Data set and class splits."""
    study: Study = "methods"
    """Which table of STUDIES is trained."""
    methods: tuple[str, ...] = ()
    """Names of the study's table, or in place of METHODS' MODULE:FUNCTION for a method of one's own; default: all."""
    family: str = "neal"
    """Family of class splits."""
    splits: tuple[int, ...] = ()
    """Indices of splits, or of class orders; default: all that differ in their known classes, or 5 orders."""
    seeds: int = 1
    """Trainings of each method and split."""
    data: str | None = None
    """Where the images are: npz:FILE, folder:DIRECTORY; default: the protocol's set, prepared by TFDS."""
    unknown_data: str | None = None
    """Where the unknown images of cifar+N are; default: cifar100, prepared by TFDS."""
    against: tuple[str, ...] = ()
    """Sets of unknown images of gray, ood and crops, or further ones of a study of mixing."""
    options: tuple[str, ...] = ()
    """Options of every training as NAME=VALUE, such as epochs=2, in place of the protocol's; part of the cell."""
    probe: tuple[str, ...] = ()
    """Methods of which one training of each split is probed: Jacobian norms of 100 known and 100 unknown images at 13
    moments, in studies at those that their claims read. It changes no number of the training. Default: PROBED."""
    probe_seed: int = 0
    """Seed of the trainings that are probed."""
    entries: Path | None = None
    """Directory of manifests and scores, what is kept; default: results/entries, of a study results/studies/STUDY."""
    runs: Path = Path("runs/benchmark")
    """Directory of run directories, logs and compiled programs."""
    workers: int = 0
    """Cells at a time, each on its share of the cores; 0: one per core."""
    only: int | None = None
    """Start at most so many cells."""
    dry: bool = False
    """List the cells and say which are done; start none."""

    def check(self) -> None:
        """Refuses what needs no image to be refused."""
        check_above_zero(self, ["seeds"])
        check_not_negative(self, ["workers", "probe_seed"])
        for name in ("methods", "against", "probe"):
            check_named_once(self, name)
        if self.probe and self.probe_seed >= self.seeds:
            raise ValueError(
                f"probe_seed={self.probe_seed} is none of {self.seeds} seeds: raise seeds, or give a smaller one"
            )
        if self.only is not None and self.only < 1:
            raise ValueError(f"only={self.only} starts nothing: give 1 or more")
        if wrong := [text for text in self.options if not re.fullmatch(r"[a-z]\w*=\S+", text)]:
            raise ValueError(f"options={wrong[0]!r} is no NAME=VALUE: write an option of train.py as epochs=2")
        table, own = STUDIES[self.study], self.study == "methods"
        for name in (*self.methods, *self.probe):
            if name not in table and not (own and re.fullmatch(r"[\w.]+:\w+", name)):
                more = ", or MODULE:FUNCTION" if own else f" of study={self.study!r}"
                raise ValueError(f"methods={name!r} does not exist: choose from {', '.join(table)}{more}")
        if not own and (SETS[self.protocol].family is None or len(SETS[self.protocol].lists) > 1):
            several = [name for name, found in SETS.items() if found.family and len(found.lists) == 1]
            raise ValueError(
                f"study={self.study!r} with protocol={self.protocol!r} has one set of known classes: choose from"
                f" {', '.join(several)}"
            )
        if self.study == "classes" and self.family != "neal":
            raise ValueError(f"family={self.family!r} does nothing with study='classes', of class orders: leave it out")
        if self.unknown_data is not None and self.protocol != "cifar+N":
            raise ValueError(f"unknown_data={self.unknown_data!r} is for protocol='cifar+N' alone: leave it out")
        for name, default in {"family": "neal", "splits": ()}.items():
            if SETS[self.protocol].family is None and getattr(self, name) != default:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} with protocol={self.protocol!r}, whose classes are all known:"
                    " leave it out"
                )
        if not is_mixing(self.study) and bool(self.against) != (SETS[self.protocol].family is None):
            raise ValueError(
                f"against={list(self.against)} with protocol={self.protocol!r}: give sets of unknown images to gray,"
                " ood and crops and to the studies of mixing, and to no other"
            )


class Set(NamedTuple):
    """What a protocol trains on.

    Attributes:
      data: default of ``--data``.
      lists: names under which the families list its classes; the first is trained on.
      recipes: options of each script.
      steps: of train.py's recipe, for the moments of the probe.
      family: None where all classes are known.
    """

    data: str
    lists: tuple[str, ...]
    recipes: Mapping[str, str]
    steps: int
    family: str | None = "any"


BRIEF = "--no-untrained --no-linear-probe"
GRAY = (
    {
        "train.py": "--preset bundled --steps 1400",
        "contrastive.py": f"--preset bundled --steps 700 {BRIEF}",
    },
    1400,
)
# Digits are cut apart by crops, and settle late under NT-Xent's usual weight: benchmark.md has what was tried.
SETTLED = "--batch-size 128 --learning-rate 3e-3 --final-learning-rate 1e-5 --no-crop --ssl-weight 0.3"
DIGITS = (GRAY[0] | {"contrastive.py": f"--preset bundled --steps 700 {SETTLED} {BRIEF}"}, GRAY[1])
COLOUR = (
    {
        "train.py": "--preset cifar10-fast --epochs 7",
        "contrastive.py": f"--preset cifar10-small --steps 400 {BRIEF}",
    },
    1470,
)
SHORTER = ("--steps 1400", "--steps 500")  # of GRAY, in studies; m-OvR on MNIST: accuracy 0.990, split 0
SETS: dict[str, Set] = {
    "mnist": Set("mnist", ("mnist",), *DIGITS),
    "fashion_mnist": Set("fashion_mnist", ("fashion_mnist",), *GRAY),
    "svhn": Set("svhn_cropped", ("svhn",), *COLOUR),
    "cifar10": Set("cifar10", ("cifar10",), *COLOUR),
    "cifar+N": Set("cifar10", ("cifar+10", "cifar+50"), *COLOUR),
    "tiny_imagenet": Set("tiny_imagenet", ("tiny_imagenet",), *COLOUR),
    "gray": Set("mnist", ("mnist",), *DIGITS, None),
    "ood": Set("cifar10", ("cifar10",), *COLOUR, None),
    "crops": Set("cifar10", ("cifar10",), *COLOUR, None),
}
METHODS = {
    "m-OvR": "train.py --method m_ovr",
    "OvR": "train.py --method ovr",
    "cosine softmax": "train.py --method cosine_softmax",
    "softmax": "train.py --method softmax",
    "DOC": "train.py --method doc",
    "CAC": "train.py --method cac",
    "RPL": "train.py --method rpl --learning-rate 1",  # mean squares have small gradients: 0.986 at 0.3, 0.991 at 1
    "ARPL": "train.py --method arpl",
    "SupCon": "contrastive.py --mixing none",
    "GradMix": "contrastive.py --mixing gradmix",
}
HALVES = {
    "m-OvR": "train.py --method m_ovr",
    "intra half": "train.py --method m_ovr --intra-weight 1 --inter-weight 0",
    "inter half": "train.py --method m_ovr --intra-weight 0 --inter-weight 1",
}
MASKS = {
    "no mixing": "--mixing none",
    "random box": "--mixing random_box",
    "GradMix +1": "--mixing gradmix --cam-sign 1",
}
STUDIES = {
    "methods": METHODS,
    "halves": HALVES | {f"{label} margin 0": f"{arm} --margin 0" for label, arm in HALVES.items()},
    "recipe": {
        "m-OvR": "train.py --method m_ovr",
        "without A": "train.py --method m_ovr --crop-padding 0 --no-flip",
        "without W": "train.py --method m_ovr --weight-decay 0",
        "with S": "train.py --method m_ovr --rotations one",  # no recipe here has it; lambda_self is 0.1
        "without N": "train.py --method doc",
        "softmax": "train.py --method softmax",
        **{f"T {x}": f"train.py --method m_ovr --scale {x}" for x in (2, 8, 32, 64)},
        **{f"margin {x}": f"train.py --method m_ovr --margin {x}" for x in (0, 0.25, 1)},
        **{f"weight decay {x}": f"train.py --method m_ovr --weight-decay {x}" for x in (0.01, 0.1)},
        "lambda_self 1": "train.py --method m_ovr --rotations one --rotation-weight 1",
    },
    "classes": {f"K {count}": "train.py --method m_ovr" for count in (2, 4, 6, 8)},
    "mixing": {
        "no mixing": "contrastive.py --mixing none",
        "random box": "contrastive.py --mixing random_box",
        "GradMix +1": "contrastive.py --mixing gradmix --cam-sign 1",
        "GradMix -1": "contrastive.py --mixing gradmix --cam-sign -1",
        "Mixup": "contrastive.py --mixing mixup",
        "CutMix": "contrastive.py --mixing cutmix",
    },
    "mixing-m-ovr": {f"m-OvR {arm}": f"train.py --method m_ovr {words}" for arm, words in MASKS.items()},
    "mixing-softmax": {f"softmax {arm}": f"train.py --method softmax {words}" for arm, words in MASKS.items()},
}
MOMENTS = 12  # of a probe, after the first
# Arms of a study that are probed, and at how many moments: claims (f) and (i) and figure 13 read the ends.
PROBED = {
    "halves": dict.fromkeys(STUDIES["halves"], 4),
    "recipe": dict.fromkeys(STUDIES["recipe"], 1) | {"m-OvR": MOMENTS},
    "classes": dict.fromkeys(STUDIES["classes"], 1),
}
LONGER = {("classes", "fashion_mnist"): ("steps=5000",)}  # 500 tell eight classes apart at 0.836, no verdict
ORDERS = tuple(range(5))
CORRUPTED = "--images 50 --severities 1 3 5 --resamples 0"  # of each known class; options of corruption.py


class Cell(NamedTuple):
    """One training of a protocol, where in its directory its entries lie, and whether it sees corrupted images."""

    label: str
    split: int
    seed: int
    directory: Path
    recipe: str
    entries: tuple[str, ...]
    corrupted: bool


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing; returns the exit code."""
    return launch(Config, work, script="benchmark.py", description=__doc__, arguments=arguments)


def work(config: Config) -> int:
    """The whole job; returns the exit code."""
    from osrjax.run.grid import run_commands

    cells = {cell.directory: cell for cell in cells_of(config)}
    sources = {label: source_of(label) for label in config.methods if ":" in label}
    for cell in cells.values():
        check_same_recipe(cell, sources.get(cell.label, {}))
    missing = [cell for cell in cells.values() if not is_done(cell)]
    if config.dry:
        for cell in cells.values():
            print(f"{'missing' if cell in missing else 'done   '} {cell.directory}: {cell.recipe}")
        return 0
    started = missing[: config.only]
    commands = {run_of(config, cell): commands_of(config, cell) for cell in started}
    of_run = {run_of(config, cell): cell for cell in started}
    if started:
        check_places(config)
    print(f"{len(cells) - len(missing)} of {len(cells)} cells are done", flush=True)
    gone = [cell for run, cell in of_run.items() if any(cell.directory.rglob(MANIFEST)) and not run.exists()]
    if gone:
        print(f"{len(gone)} cells lack some of this, and their runs are gone: they are trained again", flush=True)
    failed = run_commands(
        commands,
        finished=lambda run: is_done(of_run[run]),
        workers=config.workers,
        compilation_cache=config.runs / "compilation_cache",
    )
    if failed:
        print(f"benchmark.py: {len(failed)} cells failed; their logs: {', '.join(failed)}", file=sys.stderr)
        return 1
    place = place_of(config)
    if any(place.rglob(MANIFEST)):
        reads = "leaderboard.py" if config.study == "methods" or is_mixing(config.study) else "claims.py"
        osrjax.report.leave_page(place, following=f"python experiments/{reads} {shlex.quote(str(place.parent))}")
    return 0


def place_of(config: Config) -> Path:
    """Where the entries of a protocol lie."""
    results, own = HERE / "results", config.study == "methods"
    entries = config.entries or (results / "entries" if own else results / "studies" / config.study)
    if SETS[config.protocol].family is None:  # all classes are known: no family splits them
        return entries / config.protocol
    return entries / f"{config.protocol}-{'orders' if config.study == 'classes' else config.family}"


def recipe_of(config: Config, label: str, split: int) -> str:
    """The script and the options of a training, but for where its images are and its seed."""
    arm = STUDIES[config.study].get(label, f"train.py --method {label}")
    script, _, arm = arm.partition(" ")
    common = SETS[config.protocol].recipes[script]
    if config.study != "methods":
        common = common.replace(*SHORTER)
    if config.study == "classes":
        found = nested_split(split, int(label.removeprefix("K ")), classes_of(config))
        known, unknown = (" ".join(map(str, classes)) for classes in (found.known, found.unknown))
        arm += f" --known {known} --unknown {unknown}"
    longer = LONGER.get((config.study, config.protocol), ())
    options = {text.split("=")[0]: text for text in (*longer, *config.options)}
    more = " ".join(f"--{text.replace('=', ' ', 1)}" for text in options.values())
    return " ".join(f"{script} {common} {arm} {more}".split())


def classes_of(config: Config) -> int:
    """How many classes the data set of a protocol has."""
    return NUM_CLASSES[split_dataset(SETS[config.protocol].lists[0])][0]


def cells_of(config: Config) -> list[Cell]:
    """All cells of a protocol, seeds outermost, so that one that is stopped is balanced."""
    chosen, cells = SETS[config.protocol], []
    if config.study == "classes":
        splits = config.splits or ORDERS
    elif chosen.family is None:
        splits = config.splits or (0,)
    else:
        for split in config.splits:
            class_split(config.family, chosen.lists[0], split)  # refuses one that is not there
        splits = config.splits or distinct_splits(config.family, chosen.lists[0])
    for seed in range(config.seeds):
        for split in splits:
            for label in config.methods or STUDIES[config.study]:
                name = f"{label}-{split}-{seed}".replace(" ", "_").replace(":", ".")
                recipe = recipe_of(config, label, split)
                own = chosen.lists if len(chosen.lists) > 1 else ("",) if chosen.family else ()
                foreign = (set_name(text).replace("/", "-") for text in config.against)
                cell = (label, split, seed, place_of(config) / name, recipe, (*own, *foreign))
                cells.append(Cell(*cell, corrupted=is_mixing(config.study)))
    return cells


def commands_of(config: Config, cell: Cell) -> list[list[str]]:
    """The training of a cell, then its scores."""
    chosen, run = SETS[config.protocol], run_of(config, cell)
    script, *options = cell.recipe.split()
    data = ["--data", config.data or chosen.data, "--dataset", chosen.lists[0]]
    if chosen.family is None:
        first = config.against[0]
        known = [str(number) for number in range(10)]
        data += ["--known", *known, "--unknown-data", first]
    elif config.study != "classes":
        data += ["--family", config.family]
        if chosen.lists[0] == "cifar+10":
            data += ["--unknown-data", config.unknown_data or "cifar100"]
    moments = PROBED.get(config.study, {})
    if cell.label in (config.probe or moments) and cell.seed == config.probe_seed:
        backwards = options[::-1]  # the last word counts
        steps = int(backwards[backwards.index("--steps") - 1]) if "--steps" in options else chosen.steps
        options += ["--probe-every", str(max(1, steps // moments.get(cell.label, MOMENTS))), "--probe-images", "100"]
    where = ["--split", str(cell.split), "--seed", str(cell.seed), "--resamples", "0", "--out", str(run)]
    train = [str(HERE / script), *options, *data, *where]
    score = [str(HERE / "evaluate.py"), str(run), "--label", cell.label, "--resamples", "0", "--recipe", cell.recipe]
    score += ["--no-draw"]
    score += [] if config.study == "methods" else ["--study", config.study]
    if ":" in cell.label:
        score += ["--own-method", cell.label]
    # Scores that are fitted to training images are for tables: the claims of other studies read each method's own.
    images = ["--images"] if config.study == "methods" or is_mixing(config.study) else []
    lists = {"": images} if len(chosen.lists) == 1 else {name: ["--dataset", name] for name in chosen.lists}
    scores = [[*score, *asked, "--out", str(cell.directory / name)] for name, asked in lists.items()]
    foreign = [[*score, "--against", *config.against, "--out", str(cell.directory)]]
    if chosen.family is None:
        return [train, *foreign]
    corrupted = [[str(HERE / "corruption.py"), str(run), *CORRUPTED.split(), "--entry", str(cell.directory)]]
    return [train, *scores, *(corrupted if cell.corrupted else []), *(foreign if config.against else [])]


def run_of(config: Config, cell: Cell) -> Path:
    """The run directory of a cell."""
    study = () if config.study == "methods" else (config.study,)
    return config.runs.joinpath(*study, cell.directory.parent.name, cell.directory.name)


def is_done(cell: Cell) -> bool:
    """Whether every entry of a cell has its manifest, and its own one corrupted images where they are asked for."""
    # A set without test images makes an entry of each of its parts: "NAME PART".
    made = [
        [path for pattern in (name, f"{name} *") for path in cell.directory.glob(str(Path(pattern) / MANIFEST))]
        for name in cell.entries
    ]
    manifest = cell.directory / MANIFEST
    return all(made) and (not cell.corrupted or "corruption.json" in read_json(manifest, "restore it").get("files", {}))


def is_mixing(study: str) -> bool:
    """Whether the runs of a study classify corrupted images, and detect those of other sets."""
    return study.startswith("mixing")


def check_places(config: Config) -> None:
    """Refuses images that each cell would miss."""
    given = {"data": (config.data,), "unknown_data": (config.unknown_data,), "against": config.against}
    for argument, names in given.items():
        for name in filter(None, names):
            kind, _, place = name.partition(":")
            if kind in ("npz", "folder") and not Path(place).exists():
                raise ValueError(f"{argument}={name!r} does not exist: give a file or folder that does")
    for name in config.against:
        if name == (config.data or SETS[config.protocol].data):
            raise ValueError(f"against={name!r} is the data itself, whose classes are known: give another set")


def source_of(label: str) -> dict[str, str]:
    """The checksum of the file of a method of one's own, by which a manifest knows it."""
    from osrjax.methods.find import method_source

    return method_source(label)


def check_same_recipe(cell: Cell, source: dict[str, str]) -> None:
    """Refuses to mix cells of other options, or of another source of a method, with those that are there."""
    for path in cell.directory.rglob(MANIFEST):
        manifest = read_json(path, "restore it")
        if (made := manifest.get("recipe")) != cell.recipe:
            raise ValueError(f"{path} was made by {made!r}, not {cell.recipe!r}: give that, or other --entries")
        if source and manifest.get("method_source", source) != source:
            raise ValueError(
                f"{path} was made before methods={cell.label!r} was changed: delete it, or give other --entries"
            )


if __name__ == "__main__":
    sys.exit(main())
