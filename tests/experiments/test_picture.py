"""The picture of a finished run, of either kind, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from matplotlib.figure import Figure

import osrjax
from osrjax.data import choose_data, content_of
from osrjax.methods import Task, make_method
from osrjax.run import Run, open_finished

script = load_script("picture")


@pytest.fixture(scope="module", params=["doc", "contrast"])
def finished(request, tmp_path_factory):
    """A run on the digits that is finished but for its training."""
    config = {"data": "digits", "network": "small_cnn", "method": request.param, "flip": False}
    split, data = choose_data(config)
    method = make_method(config, Task(len(data.known_names), (8, 8, 1), 1))
    network, draws = method.make_network(jnp.float32), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))

    def drawn(path, leaf):
        scale = 0.0 if path[-1].key in ("scale", "var") else np.prod(leaf.shape[:-1]) ** -0.5
        return (draws.normal(size=leaf.shape) * scale + (scale == 0)).astype(np.float32)

    variables = jax.tree.map_with_path(drawn, shapes)
    parts = {"known": data.test_known, "unknown": data.test_unknown, "train": data.train, "validation": data.validation}
    directory = tmp_path_factory.mktemp("run") / request.param
    with Run(directory, config, content=content_of(data, split)) as run:
        run.write_network(variables)
        made = open_finished(directory)
        stored = {f"{part}_labels": parts[part].labels for part in method.parts}
        for part in method.parts:
            stored |= {f"{part}_{name}": rows for name, rows in made.outputs(parts[part].images).items()}
        run.write_arrays("scores.npz", stored)
    return made


def test_a_picture_of_a_run(finished, tmp_path, capsys):
    assert script.main([str(finished.directory), "--images", "3", "--out", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "mine.png"), str(tmp_path / "mine.svg")]
    text = (tmp_path / "mine.svg").read_text()
    assert finished.method.score in text
    assert "unknown classes: " in text


def test_another_picture_does_not_replace_the_first(finished, monkeypatch, capsys):
    monkeypatch.setattr(
        script, "maps_of", lambda finished, pixels, *_, **__: (np.zeros((4, 8, 8, 1)), np.zeros((4, 8, 8)))
    )
    monkeypatch.setattr(osrjax.report, "examples_figure", lambda *_, **__: Figure())
    precious = finished.directory.parent / "precious"
    precious.write_text("of somebody else")
    (finished.directory / "picture-images=2-seed=3.png").symlink_to(precious)
    for options, name in (([], "-images=2"), (["--seed", "3"], "-images=2-seed=3")):
        assert script.main([str(finished.directory), "--images", "2", *options]) == 0
        wanted = [str(finished.directory / f"picture{name}.{kind}") for kind in ("png", "svg")]
        assert capsys.readouterr().out.split() == wanted
    assert precious.read_text() == "of somebody else"


def test_an_unknown_image_is_attributed_at_its_predicted_class(finished):
    pixels = finished.data.test_unknown.images[:4]
    pictures, maps = script.maps_of(finished, pixels, np.full(4, -1), sign=-1, seed=0)
    assert pictures.shape == (4, 8, 8, 1)
    assert maps.shape == (4, 8, 8)
    assert (maps >= 0).all()
    assert maps.max() > 0
    if "logits" in finished.outputs(pixels):
        predicted = finished.outputs(pixels)["logits"].argmax(-1)
        np.testing.assert_allclose(maps, script.maps_of(finished, pixels, predicted, sign=-1, seed=0)[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "images=0"),
        (["--images", "5000"], "images=5000 exceeds the "),
        (["--reject-share", "1"], "reject_share=1.0 must be between 0 and 1"),
    ],
)
def test_bad_input(finished, options, message, capsys):
    assert script.main([str(finished.directory), *options]) == 2
    assert message in capsys.readouterr().err
