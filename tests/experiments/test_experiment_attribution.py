"""The contact sheets of finished runs: the numbers beside them, followed by hand, and what is refused."""

import contextlib
import io
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from PIL import Image
from scipy.stats import entropy

import osrjax
from osrjax.analysis import maps as analysis_maps
from osrjax.augment.pixels import to_float
from osrjax.data import choose_data, content_of
from osrjax.devices import cpu
from osrjax.methods import Task, make_method
from osrjax.models.backbones import NETWORKS, SmallCNN
from osrjax.models.networks import zero_taps
from osrjax.run.checkpoint import Checkpoints
from osrjax.run.directory import Run
from osrjax.run.finished import open_finished
from osrjax.train.step import init_state

FAST = {"xla_backend_optimization_level": 0}  # to compile, not to run
SHARED = {"data": "digits", "network": "small_cnn", "seed": 3, "batch_size": 12}
CLASS = {**SHARED, "method": "doc", "momentum": 0.9, "intra_weight": 1.0, "inter_weight": 0.5}
CONTRASTIVE = {
    **{**SHARED, "method": "contrast"},
    **{"hidden": 8, "features": 4, "temperature": 0.5, "cam_temperature": None, "cam_layers": [1, 2]},
    "mixing": "gradmix",
    **{"crop": False, "flip": True, "jitter": 0.0, "policy": "none", "smallest_kept": 0.6, "largest_kept": 0.8},
    **{"cam_method": "layer_cam", "cam_aggregation": "sample_max_sum", "cam_statistics": "train", "fill": "paste"},
}

script = load_script("attribution")


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """An eighth of the channels: width is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (cpu, analysis_maps):
            patch.setattr(module, "compiler_options", lambda: FAST)
        patch.setitem(NETWORKS, "small_cnn", partial(SmallCNN, width=4, features=32))
        yield


def make_run(directory, config):
    """A finished run of 5 steps with random parameters, and its states at the steps 2, 3 and 5."""
    split, data = choose_data(config)
    method = make_method(config, Task(len(data.known_names), (8, 8, 1), 5))
    given = {"optimizer": method.optimizer, "hyper": method.hyper}
    new_state = partial(init_state, network=method.make_network(jnp.float32), **given, image_shape=(8, 8, 1))
    shapes = jax.eval_shape(new_state, jax.random.key(0))
    rng = np.random.default_rng(7)

    def drawn(leaf):
        return (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    states = {step: jax.tree.map(drawn, shapes) for step in (2, 3, 5)}
    with Run(directory, config, content=content_of(data, split)) as run:
        with Checkpoints(directory / "checkpoints", keep_latest=3) as kept:
            for step, state in states.items():
                kept.save(step, jax.tree.map(jnp.asarray, state))
            kept.wait()
        run.write_network({"params": states[5].params, "batch_stats": states[5].stats})
        run.write_json("results.json", {"steps": 5})
    return new_state, states


@pytest.fixture(scope="module")
def class_run(tmp_path_factory):
    """The directory of a run of train.py, whose checkpoint of step 2 is damaged, and its networks by step."""
    directory = tmp_path_factory.mktemp("run") / "classes"
    new_state, states = make_run(directory, CLASS)
    for path in (directory / "checkpoints" / "2").rglob("*"):
        if path.is_file() and path.name not in ("_CHECKPOINT_METADATA", "metrics"):
            path.write_bytes(b"damaged")
    with contextlib.redirect_stderr(io.StringIO()) as messages:
        networks = script.networks_of(open_finished(directory))
    return directory, networks, new_state, states, messages.getvalue()


def test_networks_are_the_untrained_one_the_kept_ones_and_the_final_one(class_run):
    _, networks, new_state, states, messages = class_run
    assert list(networks) == [0, 3, 5]
    assert messages.startswith("attribution.py: no checkpoint of step 2")
    assert len(messages.splitlines()) == 1
    states[0] = jax.jit(new_state, compiler_options=FAST)(jax.random.split(jax.random.key(CLASS["seed"]))[0])
    for step, variables in networks.items():
        expected = {"params": states[step].params, "batch_stats": states[step].stats}
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), variables, expected)


def gradients_of(networks, network, images, loss):
    """At each step gradients with respect to images and to the maps of all stages, and those maps."""
    taps = zero_taps(network, (8, 8, 1), len(images))

    def differentiated(variables):
        def function(images, taps):
            outputs, _ = network.apply(variables, images, train=True, taps=taps, mutable=["batch_stats"])
            return loss(outputs), outputs.maps

        return jax.grad(function, argnums=(0, 1), has_aux=True)(images, taps)

    compiled = jax.jit(differentiated, compiler_options=FAST)
    return [jax.device_get(compiled(variables)) for variables in networks.values()]


def magnified(maps):
    return np.stack([Image.fromarray(one).resize((8, 8), Image.Resampling.BILINEAR) for one in maps.astype(np.float32)])


def check(means, maps_of_steps, *, half):
    """The numbers of the report, from maps and half a side of the box."""
    before = None
    for index, maps in enumerate(maps_of_steps):
        peaks = np.array([np.unravel_index(one.argmax(), one.shape) for one in maps])
        shares = []
        for one, (row, column) in zip(maps, peaks, strict=True):
            box = one[max(row - half, 0) : row + half, max(column - half, 0) : column + half]
            shares.append(box.sum() / one.sum())
        assert means["mass in box"][index] == pytest.approx(np.mean(shares), rel=1e-4)
        distances = np.linalg.norm(peaks - 3.5, axis=1)
        assert means["peak to centre"][index] == pytest.approx(distances.mean())
        assert 0 < means["in random box"][index] < (2 * half / 8) ** 2  # the border only takes away
        if before is None:
            assert means["peak moved"][0] is means["to other images"][0] is None
        else:
            between = np.linalg.norm(peaks[:, None] - before, axis=-1)
            assert means["peak moved"][index] == pytest.approx(between.trace() / len(peaks))
            others = between[~np.eye(len(peaks), dtype=bool)]
            assert means["to other images"][index] == pytest.approx(others.mean())
        before = peaks


def test_input_gradients_of_a_class_run(class_run, monkeypatch, tmp_path, capsys):
    directory, networks, *_ = class_run
    monkeypatch.setattr(script, "networks_of", lambda _: networks)
    stems = []  # drawing is left to the next test
    monkeypatch.setattr(osrjax.report, "save_figure", lambda _, stem: stems.append(stem) or (stem,))
    options = ["--method", "input_gradient", "--images", "4", "--unknown", "--out", str(tmp_path)]
    assert script.main([str(directory), *options]) == 0
    found = json.loads((tmp_path / "attribution.json").read_text())
    assert (found["steps"], found["images"]) == ([0, 3, 5], {"known": 12, "unknown": 12})
    assert found["kept"] == pytest.approx(0.7)  # floor(8 sqrt(0.3)) = 4
    assert found["layers"] == []
    finished = open_finished(directory)
    for kind in ("known", "unknown"):
        chosen = script.choose_images(finished, kind, script.Config(run=directory, images=4))

        def loss(outputs, kind=kind, labels=chosen.labels):
            labels = labels if kind == "known" else outputs.logits.argmax(-1)
            targets = jax.nn.one_hot(labels, 6)
            losses = -targets * jax.nn.log_sigmoid(outputs.logits)
            losses -= 0.5 * (1 - targets) * jax.nn.log_sigmoid(-outputs.logits)
            return jnp.sum(losses) / 12

        assert list(found["means"][kind]) == ["0"]  # they have no sign
        at_steps = gradients_of(networks, finished.network, chosen.first, loss)
        maps = [np.abs(gradients).max(axis=-1).astype(np.float64) for (gradients, _), _ in at_steps]
        check(found["means"][kind]["0"], maps, half=2)
    assert stems == [tmp_path / f"{name}-{kind}" for kind in ("known", "unknown") for name in ("stages", "steps")]
    assert "means over 12 known images and 12 unknown images" in capsys.readouterr().out


def test_images_are_chosen_class_by_class(class_run):
    finished = open_finished(class_run[0])
    for kind, classes in (("known", finished.data.known_names), ("unknown", finished.data.unknown_names)):
        part = finished.data.test_known if kind == "known" else finished.data.test_unknown
        chosen = script.choose_images(finished, kind, script.Config(run=class_run[0], images=8, batch_size=10))
        assert sorted(set(chosen.names)) == sorted(classes)
        assert chosen.names == sorted(chosen.names)
        assert max(map(chosen.names.count, classes)) <= 8 / len(classes) + 1
        every = np.asarray(to_float(part.images))
        rows = [np.flatnonzero((every == one).all(axis=(1, 2, 3)))[0] for one in np.asarray(chosen.first)]
        assert len(set(rows)) == 10
        if kind == "known":
            np.testing.assert_array_equal(chosen.labels, part.labels[rows])
            assert chosen.names == [classes[label] for label in chosen.labels[:8]]
        other = script.choose_images(finished, kind, script.Config(run=class_run[0], images=8, batch_size=10, seed=1))
        assert not np.array_equal(chosen.first, other.first)


def contrast_loss(outputs):
    """NT-Xent at T = 0.5 of two views, one behind the other."""
    z = outputs.projection
    rows = len(z)
    similarities = z @ z.T / 0.5
    others = jnp.where(jnp.eye(rows, dtype=bool), -jnp.inf, similarities)
    pairs = jnp.take_along_axis(similarities, (jnp.arange(rows)[:, None] + rows // 2) % rows, axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(others, axis=1) - pairs) * 0.5 / 0.07


@pytest.fixture(scope="module")
def contrastive_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "contrastive"
    make_run(directory, CONTRASTIVE)
    return directory


def test_maps_of_a_contrastive_run(contrastive_run, monkeypatch):
    directory = contrastive_run
    networks, sheets = {}, []

    def networks_of(finished, original=script.networks_of):
        networks.update(original(finished))
        return networks

    def contact_sheet(columns, original=osrjax.report.contact_sheet, **options):
        sheets.append((columns, options))
        return original(columns, **options)

    monkeypatch.setattr(script, "networks_of", networks_of)
    monkeypatch.setattr(osrjax.report, "contact_sheet", contact_sheet)
    options = ["--images", "3", "--batch-size", "6", "--kept", "0.4"]
    assert script.main([str(directory), *options]) == 0
    found = json.loads((directory / "attribution-layer_cam" / "attribution.json").read_text())
    assert (found["layers"], found["steps"], found["images"]) == ([1, 2], [0, 2, 3, 5], {"known": 6})
    finished = open_finished(directory)
    chosen = script.choose_images(finished, "known", script.Config(run=directory, images=3, batch_size=6))
    first, second = (np.asarray(view) for view in chosen[:2])
    mirrored = [np.allclose(a, b[:, ::-1], atol=1e-6) for a, b in zip(first, second, strict=True)]
    same = [np.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True)]
    assert all(np.logical_or(mirrored, same))
    assert any(mirrored)

    at_steps = gradients_of(networks, finished.network, np.concatenate([first, second]), contrast_loss)
    for name in ("stages-known.png", "stages-known.svg", "steps-known.png", "steps-known.svg"):
        assert (directory / "attribution-layer_cam" / name).stat().st_size > 5000
    (stages, options), (steps, _) = sheets
    assert options["row_names"] == chosen.names
    titles = ["view 1", *2 * ["stage 1", "stage 2", "sum", "masked"]]
    assert [column.title for column in stages] == titles
    assert [column.title for column in steps] == ["view 1", *2 * ["untrained", "step 2", "step 3", "step 5"]]
    for index, sign in enumerate((1, -1)):
        maps = []
        for (_, gradients), activations in at_steps:
            cams = [np.sum(activations[k] * np.maximum(sign * gradients[k], 0), axis=-1) for k in (0, 1)]
            scaled = [cam / cam.max(axis=(1, 2), keepdims=True) for cam in cams]  # "sample_max_sum"
            maps.append(sum(magnified(one) for one in scaled)[:6].astype(np.float64))
        check(found["means"]["known"][str(sign)], maps, half=3)  # floor(8 sqrt(0.6)) = 6
        for column, expected in zip(steps[1 + 4 * index :][:4], maps, strict=True):
            np.testing.assert_allclose(column.maps, expected[:3], rtol=1e-4, atol=1e-5)
        of_stage, _, total, masked = stages[1 + 4 * index :][:4]
        np.testing.assert_allclose(of_stage.maps, magnified(cams[0])[:3], rtol=1e-3, atol=1e-8)
        for row, (y0, y1, x0, x1) in enumerate(total.boxes):
            inside = np.zeros((8, 8), bool)
            inside[y0:y1, x0:x1] = True
            changed = (masked.pictures[row] != first[row]).any(axis=-1)
            assert not (changed & ~inside).any()
            assert changed.any()


def test_concentration_of_a_contrastive_run(contrastive_run, capsys):
    finished = open_finished(contrastive_run)
    concentration = load_script("concentration")
    assert concentration.main([str(contrastive_run), "--temperatures", "0.5", "--kept", "0.4", "--seed", "1"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {(line[-6], line[-5]): line[-4:] for line in printed if line[0] == "gradmix"}
    validation = finished.data.validation
    drawn = validation.images[np.random.default_rng(1).permutation(len(validation.images))[:12]]
    keys = jax.random.split(jax.random.key(1))
    views = np.concatenate([np.asarray(finished.method.attributed.view(key, jnp.asarray(drawn))) for key in keys])
    ((_, gradients), activations) = gradients_of({5: finished.variables}, finished.network, views, contrast_loss)[0]
    expected = {}
    for sign in (1, -1):
        cams = [np.sum(activations[k] * np.maximum(sign * gradients[k], 0), axis=-1) for k in (0, 1)]
        of_stages = {str(k + 1): magnified(cam)[:12] for k, cam in enumerate(cams)}
        scaled = [cam / cam.max(axis=(1, 2), keepdims=True) for cam in cams]
        expected |= {(f"{sign:+d}", name): maps for name, maps in of_stages.items()}
        expected[f"{sign:+d}", "sum"] = sum(magnified(one) for one in scaled)[:12]
    assert rows.keys() == expected.keys()
    for key, maps in expected.items():
        maps = maps.astype(np.float64)
        areas = [np.exp(entropy(one.ravel())) / 64 for one in maps]
        shares, ratios = [], []
        for one in maps:
            masses = [
                one[max(row - 3, 0) : row + 3, max(column - 3, 0) : column + 3].sum()
                for row in range(8)
                for column in range(8)
            ]
            shares.append(masses[one.argmax()] / one.sum())
            ratios.append(masses[one.argmax()] / np.mean(masses))
        means = [np.mean(values) for values in (areas, shares, ratios)]
        np.testing.assert_allclose([float(text) for text in rows[key][:3]], means, atol=0.0006)
        assert rows[key][3] == "1"


def test_runs_of_other_stages_have_no_concentration_in_common(contrastive_run, tmp_path, capsys):
    other = shutil.copytree(contrastive_run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"cam_layers": [2]}))
    assert load_script("concentration").main([str(contrastive_run), str(other)]) == 2
    assert "runs of gradmix +1 differ in network or cam_layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperatures", "0"], "temperatures=0.0 must be above 0 and finite"),
        (["--temperatures"], "temperatures is empty"),
        (["--kept", "1"], "kept=1.0 is not in (0, 1)"),
        ([], "is no run of contrastive.py"),
    ],
)
def test_bad_input_of_concentration(class_run, options, message, capsys):
    assert load_script("concentration").main([str(class_run[0]), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "1"], "images=1 is below 2"),
        (["--batch-size", "1"], "batch_size=1 is below 2"),
        (["--seed", "-1"], "seed=-1 must not be negative"),
        (["--images", "9999"], "images=9999 exceeds the 215 known test images"),
        (["--layers", "4"], "layers=(4,): the network has the stages 1 to 3"),
        (["--kept", "1.0"], "kept=1.0 is not in (0, 1)"),
    ],
)
def test_bad_input(class_run, options, message, tmp_path, capsys):
    assert script.main([str(class_run[0]), *options, "--out", str(tmp_path / "sheets")]) == 2
    assert f"attribution.py: {message}" in capsys.readouterr().err
    assert not (tmp_path / "sheets").exists()


@pytest.mark.parametrize("missing", ["config.json", "network.npz", "results.json"])
def test_an_unfinished_run_is_refused(class_run, missing, tmp_path, capsys):
    shutil.copytree(class_run[0], tmp_path / "run")
    (tmp_path / "run" / missing).unlink()
    assert script.main([str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"attribution.py: run={str(tmp_path / 'run')!r} has no {missing}" in error
    assert len(error.splitlines()) == 1
