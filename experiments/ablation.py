"""What does each part of the recipe contribute? Many runs as lanes of a few compiled programs, one table.

    python experiments/ablation.py                          16 seeds of the main job's recipe, one program
    python experiments/ablation.py --preset table           the ablation table: m-OvR without A, W, S, N one at a time
    python experiments/ablation.py --preset figure-14       AUROC against T, m, weight decay and lambda_self
    python experiments/ablation.py --preset contrastive     GradMix against its temperature and the weights of its terms
    python experiments/ablation.py --vary margin=0,0.25,0.5 scale=8,16 --splits 0 1 2 --seeds 3      a grid of one's own
    python experiments/ablation.py --arms "softmax: method=softmax" "no crop: crop_padding=0 flip=False"

An arm is the recipe with some fields changed; every arm runs on every split with every seed, and each such run is a
lane. Fields that change the compiled program (method, network, rotations, augmentation, batch size, steps) make groups,
one program each; the lanes of a group train together (osrjax/run/lanes.py). A lane computes what experiments/train.py
(of a contrastive method: experiments/contrastive.py) computes with the same options and seed, and its row of
results.csv has that command. A lane that diverges is reported and hurts no other.

Written to OUT: results.csv (a row a lane), history.csv (a row a lane and probe), results.json and results.txt (the
tables), figures/, and for every group its run directory with checkpoints, metrics.jsonl and outputs. The same command
goes on where it was stopped. Intervals: seeds are averaged within a split, then a 95 % t interval over splits;
differences are paired by split and seed. Two cores, --preset table: 20 minutes (experiments/results/ablation.md). Exit
codes: 0 done, 2 bad input (nothing was started), 143 or 130 stopped by SIGTERM or Ctrl-C (state saved).
"""

import contextlib
import csv
import dataclasses
import io
import itertools
import shlex
import sys
import types
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

import osrjax
from osrjax.data.choice import DataConfig, ImagesConfig
from osrjax.evaluation.config import AssessmentConfig
from osrjax.fields import Execution, check_above_zero, check_fields, check_not_negative
from osrjax.methods.options import (
    ClassifyOptions,
    ContrastOptions,
    ContrastWeights,
    Options,
    options_of,
    structure_of,
    traced_fields,
)
from osrjax.run.launch import RunConfig, launch_run


@dataclasses.dataclass(frozen=True)
class Config(AssessmentConfig, RunConfig, ContrastWeights, ClassifyOptions, ImagesConfig):
    """Run the arms of an ablation as lanes of compiled programs."""

    preset: Annotated[str, Execution] = "seeds"
    """The named ablation that gives the defaults of all other fields; listed above."""
    arms: tuple[str, ...] = ()
    """Arms as "NAME: field=value field=value"; the first is the reference. Default: the recipe alone."""
    vary: tuple[str, ...] = ()
    """Axes as field=value,value: every combination is an arm, in every one of `arms`."""
    one_at_a_time: bool = False
    """Vary one axis at a time around the recipe instead of taking every combination."""
    seeds: int = 16
    """Seeds 0, 1, ... of initialisation, order and augmentation."""
    splits: tuple[int, ...] = (0,)
    """Class splits of the family: the unit that intervals are taken over."""
    steps: int = 800
    """Optimiser steps of every lane."""
    batch_size: int = 128
    """Of each lane."""
    strategy: Annotated[Literal["auto", "vmap", "loop"], Execution] = "auto"
    """How the lanes of a device are computed: all at once, or one after another in the program; auto: by device."""
    convolutions: Annotated[Literal["auto", "native", "patches"], Execution] = "auto"
    """With vmap: as they are, or as patches times matrix."""
    lanes_at_once: Annotated[int | None, Execution] = None
    """With vmap: how many lanes of a device to compute together at most, for less memory; default: all."""
    probe_every: int = 0
    """Steps between looks at every lane (input-Jacobian norms and metrics of test images), besides one after
    the last step; 0: that one alone."""
    probe_images: int = 40
    """Known test images whose norms are taken, and as many unknown ones; 0: no norms."""
    log_every: Annotated[int, Execution] = 50
    """Steps between logged metrics."""
    resamples: int = 0
    """Bootstrap resamples of every lane's own intervals; 0: none."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        check_above_zero(self, ["seeds", "steps", "batch_size"])
        check_not_negative(self, ["probe_every", "probe_images"])
        if not self.splits or len(set(self.splits)) < len(self.splits) or min(self.splits) < 0:
            raise ValueError(f"splits={list(self.splits)} must be distinct and not negative, at least one")
        if self.probe_every and self.log_every % self.probe_every and self.probe_every % self.log_every:
            raise ValueError(
                f"probe_every={self.probe_every} and log_every={self.log_every}: make one a multiple of the other"
            )


WITH_ALL = Config(
    rotations="one", steps=200, seeds=3, splits=(0, 1, 2, 3, 4), probe_every=50, probe_images=24, arms=("m-OvR:",)
)
WITHOUT = {
    "A": "without A: crop_padding=0 flip=False",
    "W": "without W: weight_decay=0",
    "S": "without S: rotations=none",
    "N": "without N: method=doc",
}
FIGURE_14 = Config(  # lambda_self needs the rotated copies, which double the cost: they are left out elsewhere
    steps=170,
    seeds=3,
    splits=(0, 1, 2, 3, 4),
    probe_images=24,
    arms=("m-OvR:", *(f"lambda_self {x}: rotations=one rotation_weight={x}" for x in ("0.1", "1", "10"))),
    vary=("scale=2,8,16,64", "margin=0,0.25,0.5,1", "weight_decay=0,0.001,0.01,0.1"),
    one_at_a_time=True,
)
PRESETS = {
    "seeds": Config(),
    "table": dataclasses.replace(WITH_ALL, arms=(*WITH_ALL.arms, *WITHOUT.values(), "softmax: method=softmax")),
    **{
        f"figure-{number}": dataclasses.replace(WITH_ALL, arms=(*WITH_ALL.arms, WITHOUT[part]))
        for number, part in ((9, "A"), (10, "W"), (11, "S"))
    },
    "figure-14": FIGURE_14,
    "figure-13": dataclasses.replace(  # all arms of figure 14; "m-OvR" is without S, "lambda_self 0.1" with all
        FIGURE_14,
        arms=(
            *FIGURE_14.arms,
            *(f"with S, {WITHOUT[part]} rotations=one" for part in "AWN"),
            "with S, softmax: method=softmax rotations=one",
        ),
    ),
    "contrastive": Config(  # optimiser, batches and rates of experiments/contrastive.py
        method="contrast",
        mixing="gradmix",
        steps=300,
        batch_size=64,
        learning_rate=1e-3,
        final_learning_rate=5.12e-4,
        seeds=2,
        splits=(0, 1, 2, 3, 4),
        probe_images=0,
        arms=("GradMix:",),
        vary=("temperature=0.02,0.1,0.5", "supcon_weight=0", "ssl_weight=0.3"),
        one_at_a_time=True,
    ),
}
SMOKE: dict[str, Any] = {"data": "digits", "steps": 20, "batch_size": 32, "save_every": 10, "log_every": 5}
SMOKE |= {"probe_images": 12, "splits": (0, 1), "seeds": 2}

# What a lane can differ in within one program, and what makes another program.
FIELDS = {field.name for field in dataclasses.fields(Config)}
TRACED = tuple(dict.fromkeys((*traced_fields(ClassifyOptions), *traced_fields(ContrastWeights))))
RECIPE = [f.name for kind in (ClassifyOptions, ContrastWeights) for f in dataclasses.fields(kind)]
STRUCTURAL = (*(name for name in RECIPE if name not in (*TRACED, "hyper")), "steps", "batch_size")
SCRIPTS: dict[type[Options], str] = {ContrastOptions: "contrastive", ClassifyOptions: "train"}
COLUMNS = ("closed_set_accuracy", "auroc", "oscr", "detection_accuracy", "jnd")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, runs; returns the exit code."""
    by_command_line = arguments is None

    def before(config: Config) -> None:
        if by_command_line and config.distributed == "none" and config.coordinator is None:
            osrjax.devices.cpu.one_device_per_core()  # devices of several processes can wait for ever
        arms = arms_of(config)
        large = config.strategy == "vmap" or any(recipe.network != "small_cnn" for recipe in arms.values())
        osrjax.devices.cpu.reuse_host_memory(shared=large)

    return launch_run(
        *(Config, build, work),
        script="ablation.py",
        description=__doc__,
        presets=PRESETS,
        smoke=SMOKE,
        prefix="ablation",
        before=before,
        memory="lower batch_size, use more devices, or compute fewer lanes together (--lanes-at-once, --strategy loop)",
        arguments=arguments,
    )


# -------------------------------------------------------------------------------------- arms


def arms_of(config: Config) -> dict[str, Config]:
    """The recipe of every arm by its name, in order; the first is the reference."""
    arms = {}
    for text in config.arms or ("recipe:",):
        name, colon, changes = text.partition(":")
        if not colon or not name.strip():
            raise ValueError(f'arms: {text!r} has no name: write it as "NAME: field=value field=value"')
        if name.strip() in arms:
            raise ValueError(f"arms: the name {name.strip()!r} is there twice: names tell rows apart")
        arms[name.strip()] = changed(config, [(part, "arms") for part in changes.split()])
    axes = [axis_of(text) for text in config.vary]
    if not axes:
        return arms
    fields = [field for field, _ in axes]
    if len(set(fields)) < len(fields):
        raise ValueError(f"vary: {max(fields, key=fields.count)!r} is there twice: give all its values at once")
    varied = {}
    for name, recipe in arms.items():
        if config.one_at_a_time:
            if name in varied:
                raise ValueError(f"vary: {name!r} is there twice: give that arm another name")
            varied[name] = recipe
            if name != next(iter(arms)):
                continue  # axes go round the reference alone
            combinations: Sequence = [[(field, value)] for field, values in axes for value in values]
        else:
            combinations = list(itertools.product(*([(field, value) for value in values] for field, values in axes)))
        for combination in combinations:
            arm = changed(recipe, [(f"{field}={value}", "vary") for field, value in combination])
            label = ", ".join(f"{field} {value_of(arm, field)}" for field, _ in combination)
            if config.one_at_a_time and arm == recipe:
                continue  # the reference itself
            label = label if len(arms) == 1 or config.one_at_a_time else f"{name}, {label}"
            if label in varied:
                raise ValueError(f"vary: {label!r} is there twice: give each value once")
            varied[label] = arm
    return varied


def axis_of(text: str) -> tuple[str, list[str]]:
    """A field and its values, from field=value,value."""
    field, equals, values = text.partition("=")
    if not equals or not values:
        raise ValueError(f"vary: {text!r} has no values: write it as field=value,value, such as margin=0,0.5")
    return field, values.split(",")


def changed(recipe: Config, changes: Sequence[tuple[str, str]]) -> Config:
    """The recipe with some fields changed, each from (field=value, the option that says so)."""
    for text, option in changes:
        field, equals, value = text.partition("=")
        field = {"loss": "method"}.get(field, field)
        allowed = (*TRACED, *STRUCTURAL)
        if equals and field not in allowed and has_own(recipe.method, field):
            try:
                float(value)
            except ValueError:
                raise ValueError(f"{option}: {field}={value!r} is no number") from None
            others = tuple(entry for entry in recipe.hyper if entry.partition("=")[0] != field)
            recipe = dataclasses.replace(recipe, hyper=(*others, f"{field}={value}"))
            continue
        if not equals or field not in allowed:
            raise ValueError(f"{option}: {text!r} changes no field of the recipe: choose from {', '.join(allowed)}")
        if field == "method":
            recipe = dataclasses.replace(recipe, **other_defaults(recipe, value))
        recipe = dataclasses.replace(recipe, **{field: parsed(field, value, option)})
    return recipe


def other_defaults(recipe: Config, method: str) -> dict[str, Any]:
    """What a recipe takes over from another kind of method: its defaults, where the recipe has those of its own."""
    before, after = (
        {field.name: field.default for field in dataclasses.fields(osrjax.methods.find_method(name)[1])}
        for name in (recipe.method, method)
    )
    return {
        name: after[name]
        for name in before.keys() & after.keys() - {"method"}
        if name in RECIPE and getattr(recipe, name) == before[name] != after[name]
    }


def has_own(method: str, name: str) -> bool:
    """Whether a method may have a hyper-parameter that is no field; of a foreign one that is seen when it is made."""
    known = osrjax.methods.CLASS_LOSSES.get(method)
    return ":" in method or (known is not None and name in known.own)


def parsed(field: str, value: str, option: str) -> Any:
    """The value of a field of the recipe, from text."""
    hint = get_type_hints(Config)[field]
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    kind = kinds[0] if get_origin(hint) is types.UnionType else hint
    if kind is bool:
        if value not in ("True", "False"):
            raise ValueError(f"{option}: {field}={value!r} is neither True nor False")
        return value == "True"
    if kind in (int, float) or get_origin(kind) is tuple:
        try:
            return kind(value) if kind in (int, float) else tuple(int(word) for word in value.split("+"))
        except ValueError:
            what = {int: "no integer", float: "no number"}.get(kind, "no integers, such as 2+3")
            raise ValueError(f"{option}: {field}={value!r} is {what}") from None
    if kind is str:
        return value
    by_text = {str(choice): choice for choice in get_args(kind)}
    if value not in by_text:
        raise ValueError(f"{option}: {field}={value!r} does not exist: choose from {', '.join(by_text)}")
    return by_text[value]


def value_of(recipe: Config, field: str) -> Any:
    """The value of a field of the recipe, or of a hyper-parameter of one's own."""
    own = dict(text.split("=", 1) for text in recipe.hyper)
    return float(own[field]) if field in own else getattr(recipe, field)


# -------------------------------------------------------------------------------------- lanes


class Cell(NamedTuple):
    """One run of the ablation, and the lane that computes it."""

    arm: str
    recipe: Config
    split: int
    seed: int
    lane: "osrjax.run.Lane"


class Job(NamedTuple):
    """An ablation that was found possible: arms, cells, and their groups, one program each."""

    header: str
    content: dict[str, Any]
    images: np.ndarray
    arms: dict[str, Config]
    cells: list[Cell]
    groups: list[list[Cell]]


def build(config: Config) -> Job:
    """Arms, class splits, images, a lane for every arm, split and seed, and devices for every group of them."""
    arms = arms_of(config)
    names = [field.name for field in dataclasses.fields(ImagesConfig)]
    datasets = {
        split: osrjax.data.choose_data(DataConfig(**{name: getattr(config, name) for name in names}, split=split))
        for split in config.splits
    }
    layout = layout_of(config)
    for arm, recipe in arms.items():
        with naming(arm, arms):
            check_arm(recipe)
    probes = {
        split: osrjax.analysis.probe_sets(data, probe_images=config.probe_images, probe_pairs=1, seed=split)
        for split, (_, data) in datasets.items()
        if config.probe_images
    }
    cells, trained = [], {}
    for arm, recipe in arms.items():
        for split, (_, data) in datasets.items():
            task = osrjax.methods.Task(len(data.known_classes), data.train.images.shape[1:], recipe.steps)
            with naming(arm, arms):
                method = osrjax.methods.make_method(recipe, task)
                osrjax.methods.check_data(method, data, batch_size=recipe.batch_size)
            check_others(arm, recipe, method, trained, arms)
            for seed in range(config.seeds):
                name = f"{arm}, split {split}, seed {seed}"
                lane = osrjax.run.Lane(name, method, data, seed, probes.get(split))
                cells.append(Cell(arm, recipe, split, seed, lane))
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(structure(cell), []).append(cell)
    meshes = [
        osrjax.train.lane_mesh(len(members), batch_size=members[0].recipe.batch_size, devices=config.devices)
        for members in groups.values()
    ]
    for members in groups.values():
        osrjax.run.check_profile_steps(config.profile_steps, members[0].recipe.steps)
    counts = counted(len(cells), "lane"), counted(len(groups), "program"), counted(meshes[0].size, "device")
    header = "{} in {}, {strategy} on {}".format(*counts, strategy=layout.strategy)
    content: dict[str, Any] = {
        f"split {k}": osrjax.data.content_of(data, split) for k, (split, data) in datasets.items()
    }
    for recipe in arms.values():
        content |= osrjax.methods.method_source(recipe.method)
    images = datasets[config.splits[0]][1].train.images
    return Job(header, content, images, arms, cells, list(groups.values()))


def counted(number: int, noun: str) -> str:
    """Such as "1 lane", "2 lanes"."""
    return f"{number} {noun}" + "s" * (number != 1)


@contextlib.contextmanager
def naming(arm: str, arms: dict[str, Config]) -> Generator[None]:
    """Names the arm, of several, in whatever is refused within."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error} (arm {arm!r})" if len(arms) > 1 else str(error)) from error


def check_arm(recipe: Config) -> None:
    """Refuses fields that the arm's method does not read, and what its options refuse."""
    _, kind = osrjax.methods.find_method(recipe.method)
    options = options_of(recipe, kind)
    check_fields(options)
    read = {field.name for field in dataclasses.fields(kind)}
    unchanged = osrjax.data.resolve_data(Config(data=recipe.data))
    for name in RECIPE:
        if name not in read and getattr(recipe, name) != getattr(unchanged, name):
            raise ValueError(
                f"{name}={getattr(recipe, name)!r} does nothing with method={recipe.method!r}: leave it out"
            )
    check_above_zero(recipe, ["steps", "batch_size"])


def check_others(
    arm: str, recipe: Config, method: "osrjax.methods.Method", trained: dict[tuple, str], arms: dict[str, Config]
) -> None:
    """Refuses two arms that train the same networks."""
    what = (structure_of(method.options), recipe.steps, recipe.batch_size, tuple(sorted(method.hyper.items())))
    other = trained.setdefault(what, arm)
    if other != arm:
        unread = [name for name in TRACED if getattr(recipe, name) != getattr(arms[other], name)]
        why = f" ({', '.join(unread)} does nothing there)" if unread else ""
        raise ValueError(
            f"arms {other!r} and {arm!r} train the same networks{why}: leave one out; to vary the first arm alone give"
            " --one-at-a-time"
        )


def structure(cell: Cell) -> tuple:
    """What the lanes of one program have in common."""
    data, recipe = cell.lane.data, cell.recipe
    shape = (len(data.known_classes), data.train.images.shape[1:])
    return (structure_of(cell.lane.method.options), recipe.steps, recipe.batch_size, *shape)


def layout_of(config: Config) -> Any:
    """How the lanes of a device are computed."""
    return osrjax.train.choose_layout(
        strategy=config.strategy, convolutions=config.convolutions, lanes_at_once=config.lanes_at_once
    )


def work(config: Config, job: Job, run: "osrjax.run.Run") -> int:
    """All groups, one after another, and what they found together; returns the exit code."""
    found: dict[int, dict] = {}
    history = []
    with osrjax.run.StopSignal() as stop:
        for number, members in enumerate(job.groups):
            recipe = members[0].recipe
            ended = osrjax.run.train_lanes(
                run.directory / f"group-{number}",
                [cell.lane for cell in members],
                steps=recipe.steps,
                batch_size=recipe.batch_size,
                config={name: getattr(recipe, name) for name in STRUCTURAL},
                layout=layout_of(config),
                devices=config.devices,
                log_every=config.log_every,
                save_every=config.save_every,
                probe_every=config.probe_every,
                eval_batch_size=config.eval_batch_size,
                reject_share=config.reject_share,
                resamples=config.resamples,
                profile_steps=config.profile_steps,
                stop=stop,
                script="ablation.py",
            )
            if ended.exit_code:
                return ended.exit_code
            numbers = [job.cells.index(cell) for cell in members]
            found |= dict(zip(numbers, ended.lanes, strict=True))
            history += [{**row, "lane": numbers[row["lane"]]} for row in ended.history]
    if run.writes:
        summarise(config, job, found, history, run)
    osrjax.devices.processes.gather_text("")  # process 0 is still writing: who leaves is missed
    return 0


# --------------------------------------------------------------------------------------- tables, figures


def summarise(config: Config, job: Job, found: dict[int, dict], history: list[dict], run: "osrjax.run.Run") -> None:
    """Writes and prints what the lanes of all groups found together."""
    write, metrics = osrjax.files.write_whole, osrjax.run.LANE_METRICS
    table = [
        {
            "lane": number,
            "arm": cell.arm,
            "split": cell.split,
            "seed": cell.seed,
            **{name: getattr(cell.recipe, name) for name in (*STRUCTURAL, *TRACED, "hyper")},
            "score": cell.lane.method.score,
            "diverged_at": found[number]["diverged_at"],
            **{name: found[number].get(name) for name in metrics},
            "command": command_of(cell),
        }
        for number, cell in enumerate(job.cells)
    ]
    write(run.directory / "results.csv", csv_text(table).encode())
    if history:
        names = ("lane", "step", *osrjax.run.LANE_HISTORY)
        write(run.directory / "history.csv", csv_text([{n: row.get(n) for n in names} for row in history]).encode())
    values = {name: {arm: lane_array(config, table, arm, name) for arm in job.arms} for name in metrics}
    text, numbers = tabulate(config, job.arms, table, values)
    with osrjax.files.writing(run.directory / "figures"):
        draw(config, job, values, history, run.directory / "figures")
    write(run.directory / "results.txt", (text + "\n").encode())
    run.write_json("results.json", {**numbers, "table": text})
    print(text)
    commands = run.directory / "results.csv"
    osrjax.report.leave_page(
        run.directory, following=f"the column command of {commands} makes any lane a run of its own"
    )


def command_of(cell: Cell) -> str:
    """The single run that a lane equals."""
    kind = next(kind for kind in SCRIPTS if isinstance(cell.lane.method.options, kind))
    read = {field.name for field in dataclasses.fields(kind)} - {"hyper"}
    words = [f"python experiments/{SCRIPTS[kind]}.py", f"--split {cell.split}", f"--seed {cell.seed}"]
    for name in (*(f.name for f in dataclasses.fields(ImagesConfig)), *STRUCTURAL, *TRACED, "hyper"):
        if name in RECIPE and name not in (read | {"hyper"}):
            continue
        value, option = getattr(cell.recipe, name), "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else "--no-" + option[2:])
        elif isinstance(value, tuple):
            words += [f"{option} {' '.join(map(str, value))}"] if value else []
        elif value is not None:
            words.append(f"{option} {shlex.quote(str(value))}")
    return " ".join(words)


def lane_array(config: Config, table: list[dict], arm: str, name: str) -> np.ndarray:
    """A metric of an arm's lanes, [splits, seeds]; nan where a lane diverged or has none."""
    rows = [row for row in table if row["arm"] == arm]
    values = [np.nan if row[name] is None or not np.isfinite(row[name]) else row[name] for row in rows]
    return np.array(values, np.float64).reshape(len(config.splits), config.seeds)


def csv_text(rows: list[dict[str, Any]]) -> str:
    """A table with one line a row; empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tabulate(
    config: Config, arms: dict[str, Config], table: list[dict], values: dict[str, dict[str, np.ndarray]]
) -> tuple[str, dict[str, Any]]:
    """Mean and interval of every arm, differences to the first one, and the lanes that diverged."""
    diverged = [row for row in table if row["diverged_at"] is not None]
    text, numbers = osrjax.report.arms_table(
        {name: values[name] for name in COLUMNS},
        {arm: sum(row["arm"] == arm for row in diverged) for arm in arms},
    )
    title = (
        f"{config.preset}: {len(table)} lanes, {len(config.splits)} splits x {config.seeds} seeds,"
        " mean [95 % t interval over splits]; the score is the one that belongs to the loss"
    )
    lines = [
        f"diverged: lane {row['lane']} ({row['arm']}, split {row['split']}, seed {row['seed']})"
        f" at step {row['diverged_at']}; its metrics are left out"
        for row in diverged
    ]
    return "\n".join([title, text, *lines]), numbers


def draw(config: Config, job: Job, values: dict, history: list[dict], directory: Path) -> None:
    """AUROC along each varied field; AUROC against JND over all arms; what changes over training."""
    directory.mkdir(exist_ok=True)
    report, arms = osrjax.report, job.arms
    recipes = {arm: dataclasses.asdict(recipe) for arm, recipe in arms.items()}
    if panels := report.response_panels(recipes, values["auroc"], fields={name: name for name in TRACED}):
        figure = report.response_figure(panels, metric=report.metric_title("auroc"), bounds=osrjax.metrics.SHARE)
        report.save_figure(figure, directory / "auroc_by_value")
    if len(arms) > 1 and not all(np.isnan(found).all() for found in values["jnd"].values()):
        figure = report.arms_figure(
            values["jnd"], values["auroc"], x=report.metric_title("jnd"), y=report.metric_title("auroc")
        )
        report.save_figure(figure, directory / "auroc_and_jnd")
    steps = sorted({row["step"] for row in history})
    if config.probe_every and len(steps) > 1:
        shape = (len(config.splits), config.seeds, len(steps))
        titles = {name: report.metric_title(name) for name in ("jnd", "davies_bouldin", "auroc")}
        curves = {title: {arm: np.full(shape, np.nan) for arm in arms} for title in titles.values()}
        for row in history:
            cell = job.cells[row["lane"]]
            place = (config.splits.index(cell.split), cell.seed, steps.index(row["step"]))
            for name, title in titles.items():
                curves[title][cell.arm][place] = row.get(name, np.nan)
        shown = {
            title: {arm: found for arm, found in by_arm.items() if not np.isnan(found).all()}
            for title, by_arm in curves.items()
        }
        shown = {title: by_arm for title, by_arm in shown.items() if by_arm}
        if shown:
            figure = report.dynamics_figure(np.array(steps), shown, bounds={titles["auroc"]: osrjax.metrics.SHARE})
            report.save_figure(figure, directory / "dynamics")


if __name__ == "__main__":
    sys.exit(main())
