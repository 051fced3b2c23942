"""The scripts as a user runs them: bad input, kills, SIGTERM, prediction, comparison."""

import inspect
import json
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS, finish, load_script, start
from PIL import Image

from osrjax.data import resolve_data
from osrjax.run import single
from osrjax.run.parsing import parse


def interrupt(sent, seen, *arguments):
    """Starts a training, and sends it a signal as soon as something is seen; the exit code and the output."""
    process = start("train", *arguments)
    deadline = time.monotonic() + 200
    while not seen():
        assert process.poll() is None, f"too late: {process.communicate()[0]}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(sent)
    return finish(process)


def logged(run):
    return (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""


def has_logged(run, step):
    """Whether a run has logged a step, or one of the next nine: of ten steps one has a line."""
    return any(f'"step": {s},' in logged(run) for s in range(step, step + 10))


LONG = ("--smoke", "--steps", 300, "--save-every", 100, "--log-every", 10, "--resamples", 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished run that nothing happened to; made by the command line, read by several tests."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, output = finish(start("train", *LONG, "--out", run))
    assert code == 0, output
    return run, output


def final_arrays(run, step=300):
    """Every leaf of a checkpoint: step, parameters, statistics and optimiser state."""
    from orbax.checkpoint import v1 as ocp

    with warnings.catch_warnings():  # no shardings are asked for: those of the writing process will do
        warnings.simplefilter("ignore")
        leaves = jax.tree.leaves_with_path(ocp.load(run / "checkpoints" / str(step)))
    return {str(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_run(found, wanted, besides=None):
    """The same bits and the same lines; `besides` those of a step at which the found run was stopped and saved."""
    a, b = final_arrays(found), final_arrays(wanted)
    assert a.keys() == b.keys()
    assert len(a) > 40
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name
    lines = [[json.loads(line) for line in logged(run).splitlines()] for run in (found, wanted)]
    for x, y in zip(*([row for row in rows if row["step"] != besides] for rows in lines), strict=True):
        assert {k: v for k, v in x.items() if "second" not in k} == {k: v for k, v in y.items() if "second" not in k}


def test_the_run_directory_holds_what_it_promises(undisturbed):
    run, output = undisturbed
    for name in ("config.json", "provenance.json", "metrics.jsonl", "scores.npz", "network.npz", "results.json"):
        assert (run / name).stat().st_size > 0, name
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {f"{stem}.{kind}" for stem in ("scores", "roc", "oscr") for kind in ("png", "svg")}
    assert list((run / "events").glob("events.out.tfevents.*"))
    results = json.loads((run / "results.json").read_text())
    assert results["table"] in output
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["split"]["known"] == [0, 1, 2, 4, 5, 9]
    assert provenance["sources"][0]["complete"]
    # The stored outputs give the stored numbers again.
    from sklearn.metrics import accuracy_score, roc_auc_score

    with np.load(run / "scores.npz") as stored:
        cosine = [-stored[f"{part}_logits"].max(-1) for part in ("known", "unknown")]
        accuracy = accuracy_score(stored["known_labels"], stored["known_logits"].argmax(-1))
    found = results["trained"]["scores"]["cosine"]
    truth = np.repeat([0, 1], [len(part) for part in cosine])
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(truth, np.concatenate(cosine)))
    assert found["closed_set_accuracy"]["value"] == pytest.approx(accuracy)
    assert accuracy > 0.8


PROBED = (*LONG, "--probe-every", 70, "--probe-images", 6, "--probe-pairs", 2)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """As `undisturbed`, with probes."""
    run = tmp_path_factory.mktemp("runs") / "probed"
    code, output = finish(start("train", *PROBED, "--out", run))
    assert code == 0, output
    return run


def arrays_of(path):
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def test_probing_leaves_training_as_it_is(undisturbed, probed):
    wanted, found = final_arrays(undisturbed[0]), final_arrays(probed)
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
    wanted, found = (arrays_of(run / "scores.npz") for run in (undisturbed[0], probed))
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
    assert not (undisturbed[0] / "probe.npz").exists()
    # What is probed last is the network that was stored and scored.
    probe = arrays_of(probed / "probe.npz")
    assert probe["steps"].tolist() == [0, 70, 140, 210, 280, 300]
    results = json.loads((probed / "results.json").read_text())
    trained, untrained = (results[name]["scores"]["m_ovr"] for name in ("trained", "untrained"))
    assert probe["auroc"][[0, -1]].tolist() == [untrained["auroc"]["value"], trained["auroc"]["value"]]
    assert probe["accuracy"][-1] == trained["closed_set_accuracy"]["value"]
    assert probe["davies_bouldin"][-1] == results["trained"]["davies_bouldin"]
    assert probe["profiles"].shape == (2, 2, 9)
    rows = [json.loads(line) for line in (probed / "metrics.jsonl").read_text().splitlines()]
    lines = [row for row in rows if "probe/jnd" in row]
    assert [line["step"] for line in lines] == probe["steps"].tolist()
    assert [line["probe/jnd"] for line in lines] == probe["jnd"].tolist()
    assert {f"probe/norm/{digit}" for digit in range(10)} | {"probe/seconds"} <= lines[0].keys()
    for line in lines[1:]:  # beside the training's own line of the same step
        assert any(row["step"] == line["step"] and "train/loss" in row for row in rows)


def test_a_run_stopped_and_killed_at_any_moment_ends_with_the_same_bits_and_probes(probed, tmp_path):
    """After a probe, before the next checkpoint; while saving; and after the last step, before there are results."""
    run = tmp_path / "stopped"
    options = (*PROBED, "--out", run)
    code, output = interrupt(signal.SIGTERM, lambda: has_logged(run, 30), *options)
    assert code == 143, output
    assert "stopped by SIGTERM after saving step" in output
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 30 <= saved < 200
    moments = {
        "probe": lambda: (run / "probes" / "00000210.npz").exists(),
        "save": lambda: any("tmp" in path.name for path in run.glob("checkpoints/*")),
        "end": lambda: has_logged(run, 300),
    }
    for moment, seen in moments.items():
        code, output = interrupt(signal.SIGKILL, seen, *options)
        assert code == -signal.SIGKILL, (moment, output)
        assert not (run / "results.json").exists()
        if moment == "probe":
            assert f"going on from step {saved}" in output
    # What goes on compiles anew, as it does for a user; the other processes find most programs on disk.
    code, output = finish(start("train", *options, JAX_ENABLE_COMPILATION_CACHE="false"))
    assert code == 0, output
    assert "going on from step" in output
    assert_same_run(run, probed, besides=saved)
    found, wanted = (arrays_of(path / "probe.npz") for path in (run, probed))
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].tobytes() == wanted[name].tobytes(), name


@pytest.mark.usefixtures("narrow")
def test_probe_and_norms_of_a_collapsed_network(tmp_path, capsys):
    """Half a loss alone draws everything to one point; the figures of that are numbers too."""
    train = load_script("train")
    run = tmp_path / "run"
    options = "--smoke --inter-weight 0 --learning-rate 1 --probe-every 15 --probe-images 6 --probe-pairs 1"
    options += " --resamples 0 --test-norms"
    assert train.main([*options.split(), "--out", str(run)]) == 0, capsys.readouterr().err
    probe, norms, scores = (arrays_of(run / f"{name}.npz") for name in ("probe", "norms", "scores"))
    assert probe["steps"].tolist() == [0, 15, 20]
    assert probe["norm_known"][-1] < 0.1 * probe["norm_known"][0]
    for part, labels in (("known", scores["known_labels"]), ("unknown", scores["unknown_labels"])):
        assert norms[f"{part}_labels"].tolist() == labels.tolist()
        assert norms[f"{part}_embedding"].tobytes() == scores[f"{part}_embedding"].tobytes()
        for moment, step in (("before", 0), ("after", -1)):
            values = norms[f"{part}_{moment}"]
            assert values.shape == labels.shape
            for norm in probe[f"norms_{part}"][step]:  # the probed images are among them
                assert np.isclose(values, norm, rtol=1e-3, atol=1e-6).any()
    assert (run / "figures" / "oscr.png").exists()
    # What experiments/jacobian.py reads of a run is there.
    script = load_script("jacobian")
    assert script.images_of(run).keys() == norms.keys()
    assert script.measured(run)["first_and_last"]["accuracy"][1] == probe["accuracy"][-1]
    probe["known_classes"] = np.arange(6)
    found = script.Found({arm: [[probe]] for arm in script.ARMS}, np.zeros(0), np.zeros(0), np.zeros(0), None, [])
    assert {record["verdict"] for record in script.effects_of(found, decides=True)} <= {
        "reported",
        "undefined",
        "no verdict: accuracy",
    }
    assert script.curves(found)["arms"].keys() == script.ARMS.keys()


@pytest.mark.usefixtures("narrow")
def test_a_non_finite_norm_stops_the_run_naming_the_step(tmp_path, capsys, monkeypatch):
    train = load_script("train")

    def make_probe(method, data, sets, **options):
        def probe(variables, step):
            if step == 10:
                raise FloatingPointError(f"non-finite norms_known at step {step}")
            return {"step": np.asarray(step)}, {"probe/jnd": 0.5}

        return probe

    monkeypatch.setattr(single, "make_probe", make_probe)
    options = ["--smoke", "--save-every", "5", "--probe-every", "5", "--probe-images", "6"]
    assert train.main([*options, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "train.py: non-finite norms_known at step 10: stopped; the checkpoint of step 5 is good" in error
    steps = [json.loads(line)["step"] for line in logged(tmp_path / "run").splitlines()]
    assert steps == [0, 5, 5, 10]


@pytest.mark.usefixtures("narrow")
def test_a_streamed_run_gives_the_same_numbers(tmp_path, capsys):
    train = load_script("train")
    options = ["--smoke", "--steps", "60", "--save-every", "30", "--resamples", "0", "--devices", "1"]
    for words in (["streamed", "--stream"], ["resident"]):
        assert train.main([*options, *words[1:], "--out", str(tmp_path / words[0])]) == 0, capsys.readouterr().err
    a, b = (final_arrays(tmp_path / name, 60) for name in ("streamed", "resident"))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_prediction_from_a_finished_run(undisturbed, tmp_path, capsys):
    from osrjax.data import open_source

    run, _ = undisturbed
    predict = load_script("predict")
    examples = open_source("digits").splits["test"]
    rows = [int(np.flatnonzero(examples.labels == digit)[i]) for digit in range(10) for i in range(5)]
    for row in rows:
        Image.fromarray(examples.images[row, :, :, 0]).save(tmp_path / f"{examples.labels[row]}-{row:04}.png")
    assert predict.main([str(run), str(tmp_path), "--json", "--score", "cosine"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 50
    known = [line for line in lines if int(Path(line["file"]).name[0]) in (0, 1, 2, 4, 5, 9)]
    assert np.mean([line["nearest_class"] == Path(line["file"]).name[0] for line in known]) > 0.8
    for line in lines:
        rejected = line["score"] > line["threshold"]
        assert line["decision"] == ("unknown" if rejected else line["nearest_class"])
    # The command line's numbers are those of the run: the same images score the same there.
    with np.load(run / "scores.npz") as stored:
        stored_scores = -stored["known_logits"].max(-1)
    assert all(np.isclose(stored_scores, line["score"], atol=1e-5).any() for line in known)

    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no image")
    for arguments, message in (
        ([run, tmp_path / "wide.png"], "9x8 pixels, the run takes 8x8"),
        ([run, tmp_path / "text.png"], "cannot be read as an image"),
        ([run, tmp_path / "nothing.png"], "does not exist"),
        ([tmp_path, tmp_path / "wide.png"], "has no config.json"),
        ([run, tmp_path / "wide.png", "--reject-share", "2"], "reject_share=2.0"),
        ([run, tmp_path / "wide.png", "--resize", "--score", "luck"], "score='luck' does not exist"),
    ):
        assert predict.main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert predict.main([str(run), str(tmp_path / "wide.png"), "--resize"]) == 0


@pytest.mark.usefixtures("narrow")
def test_a_signal_during_a_step_that_only_logs_still_saves(tmp_path, capsys, monkeypatch):
    train = load_script("train")
    real = jax.device_get

    def device_get(values):
        if values and values[-1][0] == 15:  # a logging step between the saves at 10 and 20
            os.kill(os.getpid(), signal.SIGTERM)
        return real(values)

    monkeypatch.setattr(jax, "device_get", device_get)
    run = tmp_path / "run"
    options = ["--smoke", "--steps", "40", "--save-every", "10", "--log-every", "5", "--devices", "1"]
    assert train.main([*options, "--out", str(run)]) == 143
    saved = capsys.readouterr().out.split("after saving step ")[1].split(";")[0]
    assert (run / "checkpoints" / saved).exists()
    assert int(saved) > 15


BAD = {
    "--preset bundle": "preset='bundle' does not exist",
    "--steps ten": "Error parsing --steps: invalid literal for int() with base 10: 'ten': --help explains",
    "--nonsense 3": "Unrecognized options: --nonsense, 3",
    "--data imagenet": "imagenet",
    "--family nael": "nael",
    "--split 5": "5",
    "--known 0 1 2 --unknown 2 3": "2",
    "--known 0 0 1": "0",
    "--known 0 1 77": "77",
    "--unknown 3 4": "without known",
    "--held-out 3": "held_out=[3]",
    "--method contrast": "method='contrast' takes ContrastOptions, and this script has others",
    "--margin -0.1": "margin=-0.1",
    "--margin 3.5": "margin=3.5",
    "--steps 0": "steps=0",
    "--scale 0": "scale=0.0",
    "--learning-rate nan": "learning_rate=nan",
    "--batch-size 30 --devices 4": "no multiple of 4 devices",
    "--devices 64": "devices=64",
    "--batch-size 100000 --devices 1": "exceeds",
    "--validation-share 1.5": "validation_share=1.5",
    "--family random --openness 1.5": "openness=1.5",
    "--weight-decay -1": "weight_decay=-1.0",
    "--reject-share 1": "reject_share=1.0",
    "--data npz:nowhere.npz": "nowhere.npz",
    "--data cifar10 --data-dir nowhere": "cifar10",
    "--probe-every -1": "probe_every=-1",
    "--probe-every 5 --probe-images 5": "probe_images=5 is below the 6 known classes",
    "--probe-every 5 --probe-images 145": "probe_images=145 exceeds the 144 test images",
    "--probe-every 5 --probe-pairs 0": "probe_pairs=0",
    "--known 4": "single class",
    "--known 4 eel": "known='eel' is no class: choose from 0: 0, 1: 1",
    "--known 4 1 --held-out five": "held_out='five' is no class",
    "--crop-padding 8": "crop_padding=8 leaves crops without a pixel of 8x8 images",
}


@pytest.mark.parametrize("line", list(BAD))
def test_bad_input_is_one_clear_line_and_exit_code_2_before_any_work(line, tmp_path, capsys):
    train = load_script("train")
    began = time.monotonic()
    assert train.main(["--smoke", "--out", str(tmp_path / "run"), *line.split()]) == 2
    assert time.monotonic() - began < 5
    error = capsys.readouterr().err
    assert error.startswith("train.py: ")
    assert error.count("\n") == 1
    assert BAD[line] in error
    assert not (tmp_path / "run").exists()


def test_bad_run_directories(undisturbed, tmp_path, capsys):
    train = load_script("train")
    run, _ = undisturbed
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ([*LONG, "--out", run, "--margin", 0.4], "belongs to another configuration: there margin=0.5, now 0.4"),
        (["--smoke", "--out", tmp_path / "file" / "run"], "cannot be written"),
        (["--smoke", "--out", tmp_path], "neither empty nor a run directory"),
    ):
        assert train.main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert train.main([str(a) for a in (*LONG, "--out", run)]) == 0  # finished: shows its results again
    assert "stored results" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": np.zeros((20, 8, 8, 1), np.float32)}, "float32"),
        ({"train_images": np.zeros((20, 64), np.uint8)}, "64"),
        ({"train_labels": np.full(20, -3)}, "-3"),
        ({"train_labels": np.zeros(20, np.int64)}, "class"),  # class 1 is empty
        ({"train_labels": np.arange(19) % 3}, "19"),
    ],
)
def test_bad_arrays_are_one_clear_line(arrays, message, tmp_path, capsys):
    train = load_script("train")
    good = {
        f"{part}_{name}": value
        for part in ("train", "test")
        for name, value in (
            ("images", np.arange(1280).astype(np.uint8).reshape(20, 8, 8, 1)),
            ("labels", np.arange(20) % 3),
        )
    }
    np.savez(tmp_path / "set.npz", **{**good, **arrays})
    options = f"--data npz:{tmp_path}/set.npz --known 0 1 --unknown 2 --batch-size 4 --steps 1".split()
    assert train.main([*options, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("narrow")
def test_a_non_finite_loss_stops_the_run_naming_the_step(tmp_path, capsys):
    train = load_script("train")
    options = ["--smoke", "--learning-rate", "1e30", "--loss", "doc", "--out", str(tmp_path / "run")]
    assert train.main(options) == 1
    error = capsys.readouterr().err
    assert "non-finite" in error
    assert "at step" in error


def test_help_explains_every_field(capsys):
    import dataclasses

    train = load_script("train")
    with pytest.raises(SystemExit) as caught:
        train.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(train.Config):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
    assert f"Presets: {', '.join(train.PRESETS)}." in " ".join(text.split())
    own = set()
    for kind in train.Config.__mro__[:-1]:  # each field has a line of its own that explains it, where it is defined
        fields, source = vars(kind).get("__annotations__", {}), inspect.getsource(kind)
        assert all(f"\n    {name}: " in source for name in fields)
        assert source.count('\n    """') >= len(fields)
        own |= set(fields)
    assert own == {field.name for field in dataclasses.fields(train.Config)}


@pytest.mark.usefixtures("narrow")
def test_training_from_array_record_equals_training_from_arrays(tmp_path, capsys):
    """The bundled images, written by our own builder and read back through tensorflow-datasets."""
    from osrjax.data import open_source
    from osrjax.data.prepare import prepare

    train = load_script("train")
    source = open_source("fashion_mnist_small")
    arrays = {
        f"{part}_{kind}": getattr(source.splits[part], kind)[::10]
        for part in ("train", "test")
        for kind in ("images", "labels")
    }
    file = tmp_path / "fashion_mnist.npz"
    np.savez(file, **arrays, classes=np.array(source.class_names))
    prepare(open_source(f"npz:{file}"), "fashion_mnist", tmp_path)
    options = ["--steps", "3", "--batch-size", "16", "--save-every", "3", "--resamples", "0", "--devices", "1"]
    sets = {"tfds": ["fashion_mnist", "--data-dir", str(tmp_path)], "npz": [f"npz:{file}"]}
    for name, data in sets.items():
        assert train.main([*options, "--data", *data, "--out", str(tmp_path / name)]) == 0
    with np.load(tmp_path / "tfds" / "network.npz") as a, np.load(tmp_path / "npz" / "network.npz") as b:
        assert set(a.files) == set(b.files)
        assert all(a[name].tobytes() == b[name].tobytes() for name in a.files)
    assert "NOT the complete data set" in capsys.readouterr().out


RATES = "--learning-rate 0.06 --final-learning-rate 0 --epochs 200"
PAPER = {
    "": {"network": "wrn16_4", "data": "cifar10", "flip": True},
    f"--network resnet18 --data tiny_imagenet {RATES}": {"network": "resnet18", "crop_padding": 8},
    "--network classifier32 --data svhn_cropped": {"network": "classifier32", "flip": False},
    "--data cifar+10": {"data": "cifar10", "unknown_data": "cifar100", "dataset": "cifar+10"},
}


@pytest.mark.parametrize("options", list(PAPER))
def test_the_paper_preset(options):
    train = load_script("train")
    config = resolve_data(parse(train.Config, ["--preset", "paper", *options.split()], presets=train.PRESETS))
    assert config.preset == "paper"
    assert config.batch_size == 128
    assert (config.scale, config.margin, config.weight_decay, config.rotation_weight) == (32.0, 0.5, 1e-3, 0.1)
    if RATES in options:
        assert RATES in (EXPERIMENTS / "train.py").read_text()  # the preset says so
        assert (config.epochs, config.learning_rate, config.final_learning_rate) == (200, 0.06, 0.0)
    else:
        assert (config.steps, config.learning_rate, config.final_learning_rate) == (20_000, 0.1, 1e-5)
        assert config.epochs is None
    assert {name: getattr(config, name) for name in PAPER[options]} == PAPER[options]


def test_comparison_of_two_losses_resumes_and_tabulates(undisturbed, tmp_path, capsys, monkeypatch):
    """Of its four runs two are finished, and two are made by processes of their own."""
    compare = load_script("compare")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    config, comparison = compare.Config(table="smoke"), compare.COMPARISONS["smoke"]
    for number, group in enumerate(comparison.groups):
        directory = tmp_path / "smoke" / f"m-OvR-{group}-0".replace(" ", "_")
        shutil.copytree(undisturbed[0], directory)
        results = json.loads((directory / "results.json").read_text())
        results["trained"]["scores"]["cosine"]["auroc"]["value"] -= 0.1 * number
        (directory / "results.json").write_text(json.dumps(results))
        command = ["train.py", *compare.options_of(config, comparison, ("m-OvR", group, 0)), "--out", str(directory)]
        directory.with_name(directory.name + ".log").write_text(" ".join(command) + "\n")
    assert compare.main(["smoke", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("2 of 4 runs are finished")
    numbers = json.loads((tmp_path / "smoke.json").read_text())
    for arm, score in (("m-OvR", "cosine"), ("softmax", "max_softmax")):
        runs = [json.loads(path.read_text()) for path in sorted(tmp_path.glob(f"smoke/{arm}*/results.json"))]
        values = [run["trained"]["scores"][score]["auroc"]["value"] for run in runs]
        assert len(set(values)) == 2
        assert numbers["neal"][f"{arm} / {score}"]["auroc"]["mean"] == pytest.approx(np.mean(values))
    assert compare.main(["smoke", "--out", str(tmp_path)]) == 0
    again = capsys.readouterr().out
    assert "4 of 4 runs are finished" in again
    assert again.splitlines()[1:] == output.splitlines()[-len(again.splitlines()) + 1 :]
