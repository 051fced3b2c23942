"""The launch: what a command line becomes, what is refused and when, and what a second start finds."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest

from osrjax.data import DataConfig, choose_data, content_of, describe_data
from osrjax.evaluation.config import AssessmentConfig
from osrjax.fields import Execution, check_fields, execution_fields
from osrjax.files import FileError
from osrjax.models.table import BACKBONES, NetworkName
from osrjax.run.directory import Run
from osrjax.run.launch import SingleRunConfig, launch, launch_run
from osrjax.run.names import run_name
from osrjax.run.output import plain_output
from osrjax.run.parsing import parse, preset_config


@dataclasses.dataclass(frozen=True)
class Config(AssessmentConfig, SingleRunConfig, DataConfig):
    """Count images."""

    network: NetworkName = "small_cnn"
    """Backbone."""
    steps: int = 800
    """Steps."""
    epochs: int | None = None
    """Passes instead."""
    first_stage_steps: int = 0
    """Steps before."""
    first_stage_epochs: int | None = None
    """Passes before."""
    learning_rate: float = 0.1
    """Learning rate."""
    flip: bool | None = None
    """Mirror images; default: as the data set allows."""
    crop_padding: int | None = None
    """Padding; default: as fits the data set."""

    def check(self) -> None:
        """Refuses a learning rate that is not above 0."""
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be above 0")


PRESETS = {
    "bundled": Config(),
    "long": Config(epochs=200, first_stage_epochs=600, data="svhn_cropped"),
}
SMOKE = {"data": "digits", "steps": 20, "epochs": None}


class Job(NamedTuple):
    header: str
    content: dict[str, Any]
    images: np.ndarray
    steps: int


def build(config):
    split, data = choose_data(config)
    if config.steps > 1000:
        raise ValueError(f"steps={config.steps} are too many")
    return Job(describe_data(data, split), content_of(data, split), data.train.images, config.steps)


def work(config, job, run):
    run.write_json("results.json", {"table": f"{len(job.images)} images, {job.steps} steps"})
    print("worked")
    return 0


def start(*arguments, work=work, before=None):
    return launch_run(
        Config,
        build,
        work,
        script="toy.py",
        description="A toy.",
        presets=PRESETS,
        smoke=SMOKE,
        prefix="toy",
        before=before,
        arguments=[str(argument) for argument in arguments],
    )


def parsed(*words):
    return parse(Config, list(words), presets=PRESETS, smoke=SMOKE)


# ---------------------------------------------------------------------------------------- command lines


def test_a_preset_then_smoke_then_the_command_line():
    assert parsed() == Config()
    assert parsed("--preset", "long", "--seed", "3") == dataclasses.replace(PRESETS["long"], preset="long", seed=3)
    found = parsed("--preset=long", "--smoke", "--steps", "30")
    assert (found.preset, found.smoke, found.data, found.steps, found.epochs) == ("long", True, "digits", 30, None)
    assert preset_config(PRESETS, SMOKE, found) == dataclasses.replace(
        PRESETS["long"], preset="long", data="digits", steps=20, epochs=None
    )


def test_smoke_may_depend_on_the_preset():
    smoke = lambda preset: {"steps": preset.steps // 100}  # noqa: E731
    assert parse(Config, ["--smoke"], presets=PRESETS, smoke=smoke).steps == 8


def test_smoke_of_a_script_with_required_arguments():
    @dataclasses.dataclass(frozen=True)
    class Alone:
        run: Path
        images: int = 1000
        smoke: bool = False

    assert parse(Alone, ["--run", "a", "--smoke"], smoke={"images": 4}) == Alone(Path("a"), 4, True)
    assert parse(Alone, ["--run", "a", "--smoke", "--images", "7"], smoke={"images": 4}).images == 7
    assert parse(Alone, ["--run", "a"], smoke={"images": 4}).images == 1000


@pytest.mark.parametrize(
    ("words", "epochs", "first_stage_epochs"),
    [
        ("", 200, 600),
        ("--steps 10", None, None),
        ("--steps=10", None, None),
        ("--first-stage-steps 10", 200, None),
        ("--first_stage_steps 10", 200, None),
        ("--epochs 3", 3, 600),
        ("--steps 10 --first-stage-epochs 3", None, 3),
        ("--steps 10 --epochs None", None, None),
    ],
)
def test_steps_undo_the_epochs_of_a_preset(words, epochs, first_stage_epochs):
    found = parsed("--preset", "long", *words.split())
    assert (found.epochs, found.first_stage_epochs) == (epochs, first_stage_epochs)


def test_what_the_data_set_implies_is_written_out(tmp_path):
    for words, wanted in (
        ([], (True, 4, "fashion_mnist_small", None)),
        (["--smoke"], (False, 1, "digits", None)),
        (["--smoke", "--flip", "--crop-padding", "0"], (True, 0, "digits", None)),
    ):
        out = tmp_path / str(len(words))
        assert start(*words, "--out", out) == 0
        stored = json.loads((out / "config.json").read_text())
        assert tuple(stored[name] for name in ("flip", "crop_padding", "data", "unknown_data")) == wanted


# -------------------------------------------------------------------------------------------- refusals

BAD = {
    "--preset short": "preset='short' does not exist: choose from bundled, long",
    "--epochs 3 --steps 10": "epochs=3 and steps=10 say the same length twice: leave one out",
    "--first-stage-epochs 3 --first-stage-steps=4": "first_stage_epochs=3 and first_stage_steps=4 say",
    "--log-every 0": "log_every=0 must be above 0",
    "--save-every 0": "save_every=0 must be above 0",
    "--eval-batch-size 0": "eval_batch_size=0 must be above 0",
    "--resamples -1": "resamples=-1 must not be negative",
    "--reject-share 1": "reject_share=1.0 must be between 0 and 1, such as 0.1",
    "--seed -1": "seed=-1 must not be negative",
    "--split -1": "split=-1 must not be negative",
    "--unknown 3": "unknown=[3] without known: give the known classes too",
    "--learning-rate nan": "learning_rate=nan must be above 0",
    "--processes 2": "processes=2 needs the address of process 0",
    "--distributed auto --coordinator a:1": "are two ways to start: leave one out",
    "--steps 2000": "steps=2000 are too many",
    "--validation-share 1.5": "too few to hold out validation_share=1.5",
    "--data digit": "data set name='digit' is unknown",
    "--split 77": "split=77 does not exist in neal/mnist: it has splits 0 to ",
    "--seed 9223372036854775808": "seed=9223372036854775808 is above 4294967295",
    "--eval-batch-size 100000000": "eval_batch_size=100000000 is above 100000: give a smaller number",
    "--resamples 1000000000": "resamples=1000000000 is above 1000000",
    "--resamples 1": "resamples=1 gives no interval",
    "--start-timeout -1 --coordinator a:1 --processes 2 --process 0": "start_timeout=-1 is below 0",
    "--data npz:gs://bucket/d.npz": "data='npz:gs://bucket/d.npz' is no path of this machine: mount it, or copy it",
    "--unknown-data folder:s3://bucket/d": "unknown_data='folder:s3://bucket/d' is no path of this machine",
    "--data-dir gs://bucket": "data_dir='gs:/bucket' is no path of this machine",
    "--compilation-cache gs:/bucket": "compilation_cache='gs:/bucket' is no path of this machine",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_exit_code_2_before_anything_is_written(line, tmp_path, capsys):
    assert start("--data", "digits", "--out", tmp_path / "run", *line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("toy.py: ")
    assert BAD[line] in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["gs://bucket/run", "s3:/bucket/run"])
def test_a_run_directory_of_another_machine_becomes_no_folder_here(out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start("--smoke", "--out", out) == 2
    assert f"toy.py: out='{out[:3]}" in (error := capsys.readouterr().err)
    assert "is no path of this machine: mount it" in error
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/sets")
    assert start("--data", "cifar10") == 2
    assert "toy.py: TFDS_DATA_DIR='gs://bucket/sets' is no path of this machine" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_codes_that_steer_a_terminal_are_shown_and_not_sent(tmp_path, capsys):
    steering = "\x1b]0;title\x07 \x1b[2J\x9b31m \u202ereversed"

    def says(config, job, run):
        print(steering, "tab\tumlaut ä", end="\r\n")
        print(steering, file=sys.stderr)
        run.write_json("results.json", {"table": steering})
        return 0

    for work in (says, None):  # then the stored table
        assert start("--smoke", "--out", tmp_path / "run", work=work) == 0
        printed = capsys.readouterr()
        assert r"\x1b]0;title\x07 \x1b[2J\x9b31m \u202ereversed" in printed.out
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", printed.out + printed.err)
    assert "tab\tumlaut" not in printed.out
    before = sys.stdout, sys.stderr

    def refuses(config, job, run):
        raise FileError(f"class {steering}")

    assert start("--smoke", "--out", tmp_path / "other", work=refuses) == 1
    assert "\x1b" not in capsys.readouterr().err
    assert (sys.stdout, sys.stderr) == before

    def alone(config):
        raise ValueError(f"class {steering}\nin two lines")

    assert launch(AssessmentConfig, alone, script="alone.py", description=None, arguments=[]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "\x1b" not in error


@pytest.mark.parametrize("words", [["--smoke"], ["--help"], ["--list-classes"], ["--steps", "ten"]])
def test_where_nobody_reads_any_more_the_work_ends_quietly(words, tmp_path, monkeypatch):
    """As in `train.py | head`: no traceback, and the exit code of a process that SIGPIPE has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone, os.fdopen(os.dup(writer), "w", 1) as also_gone:
        monkeypatch.setattr(sys, "stdout", gone)
        monkeypatch.setattr(sys, "stderr", also_gone)
        assert start(*words, "--out", tmp_path / "run") == 141


@pytest.mark.parametrize("words", [["--smoke"], ["--help"], ["--list-classes"]])
def test_an_output_on_a_full_disk_is_one_line(words, tmp_path, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert start(*words, "--out", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error == "the output cannot be written (No space left on device): make room or send it elsewhere\n"


@pytest.mark.parametrize(("words", "code"), [(["--steps", "ten"], 2), (["--smoke"], 0)])
def test_an_output_that_is_closed_from_the_start_is_no_traceback(words, code, tmp_path, monkeypatch, capsys):
    """As in `train.py >&-`: Python has no such stream then."""
    monkeypatch.setattr(sys, "stdout", None)
    assert start(*words, "--out", tmp_path / "run") == code
    sys.stdout.close()
    error = capsys.readouterr().err
    assert error.count("\n") == (code == 2)


@pytest.mark.parametrize("stored", [{}, {"table": None}, {"table": ["a"]}])
def test_stored_results_without_a_table_are_one_line(stored, tmp_path, capsys):
    assert start("--smoke", "--out", tmp_path / "run") == 0
    (tmp_path / "run" / "results.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert start("--smoke", "--out", tmp_path / "run") == 1
    assert capsys.readouterr().err.endswith("results.json holds no table: delete it and give the same command again\n")


def test_every_class_of_a_configuration_checks_its_own_fields():
    check_fields(Config())
    for changes in ({"seed": -1}, {"save_every": 0}, {"split": -1}, {"resamples": -1}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))}="):
            check_fields(dataclasses.replace(Config(), **changes))


def test_a_bad_choice_lists_the_names_of_its_table(capsys):
    assert start("--network", "alexnet") == 2
    error = capsys.readouterr().err
    assert error.startswith("toy.py: invalid choice 'alexnet' for argument '--network'")
    assert error.endswith(": --help explains every option\n")
    assert error.count("\n") == 1
    assert all(name in error for name in BACKBONES)


def test_a_script_without_a_run_directory(capsys):
    @dataclasses.dataclass(frozen=True)
    class Alone(AssessmentConfig):
        images: int = 5

    def judge(config):
        if config.images > 10:
            raise ValueError(f"images={config.images} are too many")
        if config.images > 9:
            raise FileError("a.npz cannot be read")
        return config.images

    def code(*words):
        return launch(Alone, judge, script="alone.py", description=None, arguments=list(words))

    assert code() == 5
    assert code("--images", "7") == 7
    for words, message in (("--images 11", "images=11"), ("--images 10", "a.npz"), ("--resamples -1", "resamples=-1")):
        assert code(*words.split()) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"alone.py: {message}")
        assert error.count("\n") == 1


# ------------------------------------------------------------------------------------------------ runs


def test_a_second_start_shows_the_stored_results(tmp_path, capsys):
    run = tmp_path / "run"
    assert start("--smoke", "--out", run) == 0
    first = capsys.readouterr().out
    split, data = choose_data({"data": "digits"})
    assert first == f"{run}: {describe_data(data, split)}\nworked\n"
    # What says how a run is computed may differ; so may the preset, whose values are there one by one.
    again = ("--data", "digits", "--steps", "20", "--save-every", "7", "--devices", "1", "--eval-batch-size", "10")
    assert start(*again, "--out", run) == 0
    assert capsys.readouterr().out == (
        f"{first.splitlines()[0]}\nfinished before; the stored results:\n778 images, 20 steps\n"
    )
    assert start("--smoke", "--out", run, "--learning-rate", "0.2") == 2
    assert "belongs to another configuration: there learning_rate=0.1, now 0.2" in capsys.readouterr().err


def test_a_second_start_names_the_page_that_is_there(tmp_path, capsys):
    assert start("--smoke", "--out", tmp_path) == 0
    (tmp_path / "page.html").write_text("")
    assert start("--smoke", "--out", tmp_path) == 0
    assert capsys.readouterr().out.endswith(f"778 images, 20 steps\npage: {tmp_path / 'page.html'}\n")


def test_a_run_of_before_lacks_fields_that_came_later_and_means_their_defaults(tmp_path, capsys):
    run = tmp_path / "run"
    assert start("--smoke", "--out", run) == 0
    path = run / "config.json"
    stored = json.loads(path.read_text())
    for name in ("learning_rate", "flip", "validation_share", "held_out"):
        del stored[name]
    path.write_text(json.dumps(stored))
    assert start("--smoke", "--out", run) == 0
    capsys.readouterr()
    assert start("--smoke", "--out", run, "--learning-rate", "0.2") == 2
    assert "there no learning_rate, which means 0.1, now 0.2; choose another" in capsys.readouterr().err
    assert start("--smoke", "--out", run, "--flip") == 2  # the digits' default is no flip
    assert "there no flip, which means False, now True" in capsys.readouterr().err
    path.write_text(json.dumps(stored | {"warmup": 3}))
    assert start("--smoke", "--out", run) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"toy.py: out={str(run)!r} belongs to another configuration: there warmup=3, now there is no"
    )
    assert error.endswith("choose another directory, or go on with the version that made it\n")


def test_the_checksums_decide_whether_it_is_the_run_s_data(tmp_path, capsys):
    labels = np.arange(40) % 4
    arrays = {f"{part}_labels": labels for part in ("train", "test")}
    images = {f"{part}_images": np.full((40, 4, 4, 1), 9, np.uint8) + labels[:, None, None, None].astype(np.uint8)
              for part in ("train", "test")}  # fmt: skip
    np.savez(tmp_path / "d.npz", **arrays, **images)
    (tmp_path / "there").mkdir()
    np.savez(tmp_path / "there" / "e.npz", **arrays, **images)
    options = ["--known", "0", "1", "--unknown", "3", "--steps", "3", "--out", tmp_path / "run"]
    assert start("--data", f"npz:{tmp_path}/d.npz", *options) == 0
    assert start("--data", f"npz:{tmp_path}/there/e.npz", *options) == 0
    assert "finished before" in capsys.readouterr().out
    images["train_images"][0] += 1
    np.savez(tmp_path / "d.npz", **arrays, **images)
    assert start("--data", f"npz:{tmp_path}/d.npz", *options) == 2
    assert "was started with other data (sha256 differs): choose another directory or" in capsys.readouterr().err


def test_the_hook_comes_before_the_job_and_may_refuse(tmp_path, capsys):
    seen = []
    assert start("--smoke", "--out", tmp_path / "run", before=lambda config: seen.append(config.data)) == 0
    assert seen == ["digits"]

    def refuse(config):
        raise ValueError("no core is left")

    assert start("--smoke", "--out", tmp_path / "other", before=refuse) == 2
    assert capsys.readouterr().err == "toy.py: no core is left\n"


def test_a_full_disk_is_exit_code_1_and_other_errors_keep_their_traceback(tmp_path, capsys):
    def full(config, job, run):
        raise FileError("results.json cannot be written (No space left on device)")

    assert start("--smoke", "--out", tmp_path / "full", work=full) == 1
    assert capsys.readouterr().err == "toy.py: results.json cannot be written (No space left on device)\n"

    def wrong(config, job, run):
        raise ValueError("a mistake of the program")

    with pytest.raises(ValueError, match="a mistake"):
        start("--smoke", "--out", tmp_path / "wrong", work=wrong)
    with Run(tmp_path / "wrong", json.loads((tmp_path / "wrong" / "config.json").read_text())):
        pass  # it was closed


# ------------------------------------------------------------------------------------------------ names


def test_the_default_name_says_what_differs_from_the_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert start("--smoke") == 0
    assert start("--smoke", "--learning-rate", "0.2") == 0
    assert start("--smoke", "--learning-rate", "0.2", "--save-every", "3") == 0  # the same run
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "toy-bundled-smoke-neal0-seed0",
        "toy-bundled-smoke-neal0-seed0-learning_rate=0.2",
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "bundled-neal0-seed0"),
        ({"split": 3, "seed": 7, "family": "cssr"}, "bundled-cssr3-seed7"),
        ({"known": (0, 1), "unknown": (7,)}, "bundled-split0-seed0-known=0,1-unknown=7"),
        ({"held_out": (2, 4)}, "bundled-neal0-seed0-held_out=2,4"),
        ({"flip": False, "epochs": 3}, "bundled-neal0-seed0-epochs=3-flip=False"),
        ({"data": "npz:/data/sets/cifar10.npz"}, "bundled-neal0-seed0-data=cifar10.npz-HASH"),
        ({"dataset": "a/b c"}, "bundled-neal0-seed0-dataset=b_c-HASH"),
        ({"data_dir": Path("elsewhere"), "stream": True, "out": Path("x")}, "bundled-neal0-seed0"),
    ],
)
def test_names(changes, name):
    found = run_name(dataclasses.replace(Config(), **changes), Config())
    assert re.fullmatch(re.escape(name).replace("HASH", "[0-9a-f]{6}"), found), found


def test_no_two_configurations_share_a_name():
    many = [
        Config(),
        Config(data="npz:/a/cifar10.npz"),
        Config(data="npz:/b/cifar10.npz"),
        Config(data="cifar10"),
        *(Config(known=tuple(range(count)), unknown_data="svhn_cropped", learning_rate=0.3) for count in (2, 90, 100)),
        Config(known=(0, 11)),
        Config(known=(0, 1, 1)),
        *(Config(dataset=f"{'very long ' * 40}{end}") for end in "ab"),
    ]
    names = [run_name(config, Config()) for config in many]
    assert len(set(names)) == len(many)
    for name in names:
        assert len(name) <= 150
        assert "/" not in name
        assert name.isascii()


def test_fields_that_change_no_result():
    assert set(execution_fields(Config)) == {
        *("preset", "smoke", "out", "data_dir", "log_every", "save_every", "eval_batch_size", "stream"),
        *("devices", "distributed", "coordinator", "processes", "process", "peer_timeout", "start_timeout"),
        *("profile_steps", "compilation_cache", "list_classes"),
    }

    @dataclasses.dataclass
    class Own:
        plain: int = 0
        marked: Annotated[int, Execution] = 0

    assert execution_fields(Own) == ("marked",)
    assert Own.__dataclass_fields__.keys() == {"plain", "marked"}


# ------------------------------------------------------------------------------------------- lightness

HEAVY = ("jax", "flax", "orbax", "optax", "sklearn", "scipy", "tensorflow_datasets", "grain", "matplotlib")
PROBE = """
import sys
sys.argv = ["toy.py", *{words!r}]
sys.path[:0] = {path!r}
import test_launch
code = None
try:
    code = test_launch.launch_run(
        test_launch.Config, test_launch.build, test_launch.work, script="toy.py", description="A toy.",
        presets=test_launch.PRESETS, smoke=test_launch.SMOKE,
    )
except SystemExit as end:
    code = end.code
print(code, [name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("words", "code", "loaded"),
    [
        (["--help"], 0, []),
        (["--network", "alexnet"], 2, []),
        (["--preset", "short"], 2, []),
        (["--seed", "-1"], 2, []),
        (["--processes", "2"], 2, ["jax"]),
        (["--data", "nothing"], 2, ["jax"]),
        (["--split", "77"], 2, ["jax"]),
    ],
)
def test_help_and_refusals_load_nothing_heavy(words, code, loaded):
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    probe = PROBE.format(words=words, path=path, heavy=HEAVY)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == f"{code} {loaded}", done.stderr


def test_warnings_are_lines_without_code():
    usual = warnings.formatwarning
    with plain_output():
        assert warnings.formatwarning("one\nimage", UserWarning, "file.py", 3) == "warning: one image\n"
    assert warnings.formatwarning is usual
