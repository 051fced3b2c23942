"""The ablation script: arms, its lanes against single runs, what it writes, other devices, bad input."""

import csv
import dataclasses
import json
import logging
import re
import shlex

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS, OPTIONS, load_script, quick_process
from narrow import narrow_network

import osrjax
from osrjax.data import resolve_data
from osrjax.devices import sharding
from osrjax.files import FileError
from osrjax.methods import Task, make_method
from osrjax.models.backbones import NETWORKS, SmallCNN
from osrjax.run.checkpoint import LaneCheckpoints
from osrjax.run.lanes import open_group
from osrjax.run.parsing import parse
from osrjax.train.layout import lane_mesh, pad_lanes

ablation = load_script("ablation")


def config_of(*words):
    """The configuration of a command line."""
    return resolve_data(parse(ablation.Config, list(words), presets=ablation.PRESETS, smoke=ablation.SMOKE))


def cell_of(arm, recipe):
    """A cell of which no data are asked."""
    method = make_method(recipe, Task(6, (8, 8, 1), recipe.steps))
    return ablation.Cell(arm, recipe, 0, 0, osrjax.run.Lane(arm, method, None, 0))


def rows_of(directory):
    with (directory / "results.csv").open() as file:
        return list(csv.DictReader(file))


def logged(run):
    """By step, all that was logged of it."""
    steps = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        found = json.loads(line)
        steps.setdefault(found["step"], {}).update(found)
    return steps


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """As in the processes that are started."""
    with narrow_network():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two arms in one program and one in another, three seeds: six and three lanes on four devices."""
    out = tmp_path_factory.mktemp("ablation") / "run"
    arms = ["m-OvR:", "hot: learning_rate=1e38", "softmax: loss=softmax"]
    options = ["--smoke", "--steps", "10", "--splits", "0", "--seeds", "3", "--probe-every", "5", "--out", str(out)]
    compiled = []
    heard = logging.Handler()
    heard.emit = lambda record: compiled.extend(re.findall(r"XLA compilation of jit\((\w+)\)", record.getMessage()))
    logger = logging.getLogger("jax._src.dispatch")
    logger.addHandler(heard)
    with jax.log_compiles():
        assert ablation.main([*options, "--arms", *arms]) == 0
    logger.removeHandler(heard)
    # This thread (log_compiles is its own) calls what others compiled ahead, and compiles none of it again.
    assert "_compiled_scores" in compiled
    assert not {"step_with_diverged", "init_lanes", "outputs_by_image", "norms"} & set(compiled)
    return out


def test_a_lane_is_the_single_run_that_its_row_names(finished, tmp_path):
    train = load_script("train")
    rows = rows_of(finished)
    assert [row["arm"] for row in rows] == ["m-OvR"] * 3 + ["hot"] * 3 + ["softmax"] * 3
    for lane in (1, 8):
        words = rows[lane]["command"].split()
        assert words[:2] == ["python", "experiments/train.py"]
        out = tmp_path / str(lane)
        assert train.main([*words[2:], "--devices", "1", "--resamples", "0", "--out", str(out)]) == 0
        single = json.loads((out / "results.json").read_text())["trained"]["scores"][rows[lane]["score"]]
        for metric in ("closed_set_accuracy", "auroc", "oscr"):
            assert float(rows[lane][metric]) == pytest.approx(single[metric]["value"], abs=0.01), metric


def test_a_contrastive_lane_is_the_single_run_that_its_row_names(tmp_path):
    """By small steps, for Adam moves a weight whose gradient is rounding alone by a whole step, either way."""
    contrastive, out = load_script("contrastive"), tmp_path / "lanes"
    options = [
        "--preset",
        "contrastive",
        "--smoke",
        "--steps",
        "4",
        "--splits",
        "0",
        "--seeds",
        "1",
        "--log-every",
        "1",
    ]
    options += ["--learning-rate", "1e-5", "--final-learning-rate", "1e-6"]
    assert ablation.main([*options, "--vary", "temperature=0.1", "--out", str(out)]) == 0
    row = rows_of(out)[1]
    words = row["command"].split()
    assert words[:2] == ["python", "experiments/contrastive.py"]
    assert (row["arm"], row["score"]) == ("temperature 0.1", "knn_sum")
    short = ["--resamples", "0", "--no-untrained", "--no-linear-probe", "--devices", "1", "--log-every", "1"]
    assert contrastive.main([*words[2:], *short, "--out", str(tmp_path / "single")]) == 0
    single = json.loads((tmp_path / "single" / "results.json").read_text())["trained"]["scores"]["knn_sum"]
    for metric in ("closed_set_accuracy", "auroc", "oscr"):
        assert float(row[metric]) == pytest.approx(single[metric]["value"], abs=1e-3), metric
    lanes, alone = logged(out / "group-0"), logged(tmp_path / "single")
    assert lanes[1]["lane/001/loss"] == pytest.approx(alone[1]["train/loss"], rel=1e-5)  # before any update
    for step in range(1, 5):
        for name, tolerance in {"loss": 1e-3, "grad_norm": 1e-2}.items():
            assert lanes[step][f"lane/001/{name}"] == pytest.approx(alone[step][f"train/{name}"], rel=tolerance)
            assert lanes[step][f"lane/000/{name}"] != pytest.approx(alone[step][f"train/{name}"], rel=0.1)
    with np.load(out / "group-0" / "outputs.npz") as found, np.load(tmp_path / "single" / "scores.npz") as stored:
        for part in ("validation", "train"):
            rows = found[f"rows of lane 0 {part}"]
            np.testing.assert_allclose(found["projection"][1, rows], stored[f"{part}_projection"], atol=1e-4)


def test_diverged_lanes_are_reported_and_left_out(finished):
    rows = rows_of(finished)
    assert all(row["diverged_at"] and not row["auroc"] for row in rows if row["arm"] == "hot")
    assert all(row["auroc"] and not row["diverged_at"] for row in rows if row["arm"] != "hot")
    text = (finished / "results.txt").read_text()
    assert text.count("diverged: lane") == 3
    assert "(hot, split 0, seed 2)" in text


def test_logged_means_are_those_of_the_lanes_that_have_not_diverged(finished):
    """Six lanes on four devices, so two more pad them; three of the six have diverged."""
    last = logged(finished / "group-0")[10]
    assert last["train/diverged_lanes"] == 3
    for name in ("loss", "grad_norm"):
        lanes = [last[f"lane/{lane:03d}/{name}"] for lane in range(3)]
        assert last[f"train/{name}"] == pytest.approx(np.mean(lanes), rel=1e-6)
        assert len(set(lanes)) == 3


def test_tables_history_and_figures(finished):
    stored = json.loads((finished / "results.json").read_text())
    rows = rows_of(finished)
    values = [float(row["auroc"]) for row in rows if row["arm"] == "m-OvR"]
    assert stored["arms"]["m-OvR"]["auroc"]["mean"] == pytest.approx(np.mean(values))
    assert set(stored["differences"]) == {"hot", "softmax"}
    with (finished / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert {(row["lane"], row["step"]) for row in history} >= {("0", "5"), ("0", "10"), ("8", "10")}
    last = next(row for row in history if (row["lane"], row["step"]) == ("0", "10"))
    assert float(last["auroc"]) == pytest.approx(float(rows[0]["auroc"]))
    assert float(last["jnd"]) == pytest.approx(float(rows[0]["jnd"]), rel=1e-4)
    assert {path.name for path in (finished / "figures").glob("*.png")} == {"auroc_and_jnd.png", "dynamics.png"}
    with np.load(finished / "group-0" / "outputs.npz") as outputs:
        assert outputs["logits"].shape[::2] == (6, 6)
        places = [outputs[f"rows of lane 0 {part}"] for part in ("validation", "known", "unknown")]
        assert outputs["rows are those of lane"].tolist() == [0] * 6
        assert sorted(np.concatenate(places)) == list(range(outputs["logits"].shape[1]))


def test_arms_of_other_lengths_and_lanes_that_diverged_late_are_drawn_as_far_as_they_went(tmp_path, monkeypatch):
    config = config_of("--smoke", "--seeds", "1", "--splits", "0", "--probe-every", "5")
    recipes = [dataclasses.replace(config, margin=margin) for margin in (0.1, 0.2, 0.3)]
    arms = dict(zip(("long", "short", "diverged"), recipes, strict=True))
    cells = [cell_of(arm, recipe) for arm, recipe in arms.items()]
    job = ablation.Job("", {}, np.zeros(0), arms, cells, [cells])
    probed = {0: (5, 10, 15), 1: (4, 8), 2: (5,)}
    history = [
        {"lane": lane, "step": step, "jnd": 0.1 * step, "davies_bouldin": 1.0, "auroc": 0.5}
        for lane, steps in probed.items()
        for step in steps
    ]
    values = {name: {arm: np.full((1, 1), np.nan) for arm in arms} for name in ("auroc", "jnd")}
    figures = {}
    monkeypatch.setattr(osrjax.report, "save_figure", lambda figure, path: figures.update({path.name: figure}))
    ablation.draw(config, job, values, history, tmp_path / "figures")
    lines = {line.get_label(): line for line in figures["dynamics"].axes[0].get_lines()}
    for lane, steps in probed.items():
        assert tuple(lines[cells[lane].arm].get_xdata()) == steps
        np.testing.assert_allclose(lines[cells[lane].arm].get_ydata(), 0.1 * np.array(steps))


def test_a_lane_that_its_last_update_breaks_hurts_no_other(tmp_path, capsys, monkeypatch):
    """No step sees it any more: its outputs or its norms do."""
    monkeypatch.setitem(NETWORKS, "small_cnn", SmallCNN)  # whose norms the second rate breaks, and not its outputs
    arguments = ["--smoke", "--seeds", "1", "--splits", "0", "--steps", "1", "--vary", "learning_rate=0.1,1e18,3e38"]
    assert ablation.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    rows = rows_of(tmp_path / "run")
    assert rows[0]["diverged_at"] == ""
    assert rows[0]["jnd"] != ""
    assert rows[1]["jnd"] == rows[2]["jnd"] == ""
    assert rows[2]["diverged_at"] == "1"
    assert rows[2]["auroc"] == ""
    assert "diverged: lane 2" in capsys.readouterr().out


def test_a_group_that_cannot_be_written_is_a_file_error(tmp_path):
    (tmp_path / "group-0").write_text("a file where the directory would be")
    with pytest.raises(FileError, match=r"group-0.*cannot be written"):
        open_group(tmp_path / "group-0", {}, {})


@pytest.mark.parametrize("preset", ablation.PRESETS)
def test_arms_of_a_preset_are_different_networks(preset):
    for smoke in ([], ["--smoke"]):
        arms, trained = ablation.arms_of(config_of("--preset", preset, *smoke)), {}
        for arm, recipe in arms.items():
            ablation.check_arm(recipe)
            # refuses arms that differ only in what their loss does not read
            ablation.check_others(arm, recipe, cell_of(arm, recipe).lane.method, trained, arms)
        assert len(set(arms.values())) == len(trained) == len(arms) > 0


def test_commands_are_quoted_for_a_shell():
    command = ablation.command_of(cell_of("recipe", config_of("--data", "npz:/my data/d.npz")))
    assert shlex.split(command)[shlex.split(command).index("--data") + 1] == "npz:/my data/d.npz"


def test_the_same_command_prints_the_stored_table(finished, capsys):
    arms = ["m-OvR:", "hot: learning_rate=1e38", "softmax: loss=softmax"]
    options = ["--smoke", "--steps", "10", "--splits", "0", "--seeds", "3", "--probe-every", "5"]
    assert ablation.main([*options, "--out", str(finished), "--arms", *arms]) == 0
    assert "finished before" in capsys.readouterr().out
    assert ablation.main([*options, "--out", str(finished)]) == 2
    assert "belongs to another configuration" in capsys.readouterr().err


def test_one_device_two_and_four_give_the_same_lanes(tmp_path, capsys):
    """The same program, unchanged, on virtual devices: two lanes, so that four devices share batches too."""
    found, programs = {}, tmp_path / "programs"
    for devices in (1, 2, 4):
        out = tmp_path / str(devices)
        options = ["--smoke", "--steps", "5", "--seeds", "1", "--devices", str(devices), "--out", str(out)]
        if devices == 2:
            flags = f"{OPTIONS} --xla_dump_to={programs} --xla_dump_hlo_as_text"
            process = quick_process(EXPERIMENTS / "ablation.py", *options, JAX_NUM_CPU_DEVICES="2", XLA_FLAGS=flags)
            output, error = process.communicate(timeout=280)
            assert process.returncode == 0, error
        else:
            assert ablation.main(options) == 0
            output = capsys.readouterr().out
        assert f"2 lanes in 1 program, loop on {devices} device" in output
        with np.load(out / "group-0" / "outputs.npz") as outputs:
            found[devices] = outputs["logits"]
    np.testing.assert_allclose(found[2], found[1], atol=1e-4)
    np.testing.assert_allclose(found[4], found[1], atol=1e-4)
    # Where each lane has a device, nothing that the script compiles makes devices wait for each other.
    texts = {path.name: path.read_text() for path in programs.glob("*after_optimizations.txt")}
    assert {"step_with_diverged", "init_lanes", "outputs_by_image", "norms"} <= {n.split(".")[1][4:] for n in texts}
    waiting = r"(all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(-start)?\("
    assert not [name for name, text in texts.items() if re.search(waiting, text)]


def test_checkpoints_go_on_with_other_numbers_of_devices(tmp_path):
    state = {"w": np.arange(6.0, dtype=np.float32).reshape(3, 2)}
    pads = {1: 3, 2: 4, 4: 4}
    for saving, restoring in ((2, 1), (1, 4)):
        directory = tmp_path / f"{saving}-{restoring}"
        meshes = {n: lane_mesh(3, batch_size=4, devices=n) for n in (saving, restoring)}
        assert pad_lanes(3, restoring) == pads[restoring]
        padded = np.concatenate([state["w"], np.repeat(state["w"][-1:], pads[saving] - 3, axis=0)])
        placed = jax.device_put({"w": padded}, sharding.lane_sharding(meshes[saving]))
        with LaneCheckpoints(directory, lanes=3, mesh=meshes[saving]) as kept:
            kept.save(5, placed)
            kept.wait()
        members = sharding.lane_sharding(meshes[restoring])
        like = jax.device_put({"w": np.zeros((pads[restoring], 2), np.float32)}, members)
        with LaneCheckpoints(directory, lanes=3, mesh=meshes[restoring]) as kept:
            restored = kept.restore_latest(like)
        np.testing.assert_array_equal(restored.state["w"][:3], state["w"])
        assert restored.state["w"].shape[0] == pads[restoring]
        assert restored.state["w"].sharding == members
    assert sharding.sweep_mesh(4, 4).shape["member"] == 4


def test_grids_and_axes_make_arms():
    def arms(*options):
        return list(ablation.arms_of(config_of(*options)))

    assert arms("--vary", "margin=0,0.5", "scale=8,16") == [
        "margin 0.0, scale 8.0",
        "margin 0.0, scale 16.0",
        "margin 0.5, scale 8.0",
        "margin 0.5, scale 16.0",
    ]
    assert arms("--vary", "margin=0,0.5", "scale=8,16", "--one-at-a-time") == ["recipe", "margin 0.0", "scale 8.0"]
    assert arms("--arms", "a:", "b: loss=softmax", "--vary", "weight_decay=0,0.1") == [
        "a, weight_decay 0.0",
        "a, weight_decay 0.1",
        "b, weight_decay 0.0",
        "b, weight_decay 0.1",
    ]
    table = ablation.arms_of(config_of("--preset", "table"))
    assert list(table) == ["m-OvR", "without A", "without W", "without S", "without N", "softmax"]
    assert (table["without A"].crop_padding, table["without A"].flip) == (0, False)
    assert (table["without W"].weight_decay, table["without S"].rotations, table["without N"].method) == (
        0,
        "none",
        "doc",
    )
    fields = {name for arm in ablation.arms_of(config_of("--preset", "figure-14")) for name in arm.split()}
    assert {"scale", "margin", "weight_decay", "lambda_self"} <= fields


def test_an_arm_of_another_kind_of_method_has_the_defaults_of_that_kind():
    arm = ablation.arms_of(config_of("--arms", "a: method=contrast"))["a"]
    assert (arm.learning_rate, arm.final_learning_rate, arm.mixing) == (1e-3, 5.12e-4, "gradmix")
    given = ablation.arms_of(config_of("--learning-rate", "0.05", "--arms", "a: method=contrast mixing=none"))["a"]
    assert (given.learning_rate, given.final_learning_rate, given.mixing) == (0.05, 5.12e-4, "none")
    assert ablation.arms_of(config_of("--arms", "a: method=softmax"))["a"].learning_rate == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "figure-99"], "preset='figure-99' does not exist"),
        (["--arms", "loss=softmax"], "has no name"),
        (["--arms", "a: loss=softmax", "a:"], "is there twice"),
        (["--arms", "a: losses=softmax"], "changes no field of the recipe"),
        (["--arms", "a: loss=hinge"], "method='hinge' does not exist: choose from m_ovr"),
        (["--arms", "a: flip=maybe"], "flip='maybe' is neither True nor False"),
        (["--vary", "margin"], "has no values"),
        (["--vary", "margin=0,wide"], "margin='wide' is no number"),
        (["--vary", "steps=1e3"], "steps='1e3' is no integer"),
        (["--vary", "learning_rate=inf"], "learning_rate=inf is not finite"),
        (["--vary", "margin=0.5", "margin=1"], "vary: 'margin' is there twice"),
        (["--one-at-a-time", "--arms", "x:", "margin 0.0: loss=ovr", "--vary", "margin=0"], "'margin 0.0' is there"),
        (["--arms", "s: loss=softmax", "--vary", "margin=0,1"], "train the same networks (margin does nothing there)"),
        (["--vary", "rotation_weight=0.1,1"], "train the same networks (rotation_weight does nothing there)"),
        (["--arms", "a:", "b: margin=0.5"], "arms 'a' and 'b' train the same networks: leave one out"),
        (["--log-every", "10", "--probe-every", "7"], "make one a multiple of the other"),
        (["--vary", "scale=8,-1"], "scale=-1.0 must be above 0 (arm 'scale -1.0')"),
        (["--arms", "a: margin=4"], "margin=4.0 is an angle in radians"),
        (["--seeds", "0"], "seeds=0 must be above 0"),
        (["--splits", "0", "0"], "splits=[0, 0] must be distinct"),
        (["--splits", "9"], "split"),
        (["--batch-size", "100000"], "batch_size=100000 exceeds the"),
        (["--devices", "99"], "devices=99"),
        (["--convolutions", "patches", "--strategy", "loop"], "gains nothing in a loop"),
        (["--profile-steps", "5", "3"], "profile_steps=(5, 3)"),
        (["--process", "1"], "process"),
        (["--loss", "contrastive"], "method='contrastive' does not exist: choose from m_ovr"),
        (["--preset", "contrastive", "--vary", "margin=0.1"], "margin=0.1 does nothing with method='contrast'"),
        (["--vary", "temperature=0.1"], "temperature=0.1 does nothing with method='m_ovr'"),
        (["--vary", "mixing=gradmix", "--arms", "a: cam_layers=2+x"], "cam_layers='2+x' is no integers"),
        (["--preset", "contrastive", "--probe-images", "4"], "probe_images=4 is below the 6 known classes"),
        (["--preset", "contrastive", "--vary", "batch_size=1"], "batch_size=1 is too small for method='contrast'"),
        (["--preset", "contrastive", "--validation-share", "0.986", "--batch-size", "8"], "training images of a class"),
        (["--preset", "contrastive", "--splits", "0", "--held-out", "1", "2", "4", "5", "9"], "single class"),
        (["--preset", "contrastive", "--vary", "ssl_weight=0"], "ssl_weight=0 gives the mixed term of mixing="),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(options, message, capsys, tmp_path):
    out = tmp_path / "run"
    assert ablation.main(["--smoke", *options, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ablation.py: ")
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()
