"""The comparisons of speed.py: their tables and last lines, our side, and the peers in PyTorch."""

import contextlib
import dataclasses
import importlib
import itertools
import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import OPTIONS

SCRIPT = Path(__file__).parents[2] / "experiments" / "speed.py"


@pytest.fixture
def load(monkeypatch):
    """Imports a file of experiments/benchmarks, for which there is no PyTorch here and little time."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent / "benchmarks"))
    monkeypatch.setattr(importlib.import_module("comparison"), "find_torch", lambda: False)
    turns = importlib.import_module("turns")
    monkeypatch.setattr(turns, "SETTLE", 0.0)
    monkeypatch.setitem(turns.take_turns.__kwdefaults__, "shortest", turns.SHORTEST_BLOCK / 20)
    monkeypatch.setenv("XLA_FLAGS", OPTIONS)  # of the sides' processes
    return importlib.import_module


def last_line(capsys):
    *lines, last = capsys.readouterr().out.strip().splitlines()
    return lines, json.loads(last)


# The entry.


def test_what_is_measured_is_a_file_of_the_benchmarks_with_all_other_options(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda python, command: started.append((python, command)))
    main = runpy.run_path(str(SCRIPT))["main"]
    benchmarks = SCRIPT.parent / "benchmarks"
    for given, expected in {
        "": "train",
        "--smoke": "train --smoke",
        "--what train --networks wrn16_4 --batch 64 --repeats 21": "train --networks wrn16_4 --batch 64 --repeats 21",
        "--batch 2 --what=jacobian --chunks 8 32 --no-grid": "jacobian --batch 2 --chunks 8 32 --no-grid",
        "--what gradmix --help": "gradmix --help",
        "--what sweep --steps 200": "sweep --steps 200",
    }.items():
        main(given.split())
        name, *options = expected.split()
        file = benchmarks / f"speed_{name}.py"
        assert file.exists()
        assert started.pop() == (sys.executable, [sys.executable, str(file), *options])


def test_what_is_not_measured_is_refused(capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["--what", "nothing"]) == 2
    assert capsys.readouterr().err == (
        "speed.py: what='nothing' does not exist: choose from train, jacobian, gradmix, sweep\n"
    )
    assert main(["--help"]) == 0
    assert "--what jacobian" in capsys.readouterr().out


def test_a_refusal_and_its_exit_code_come_through():
    command = [sys.executable, str(SCRIPT), "--what", "gradmix", "--networks", "wrn16_4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "speed_gradmix.py: networks wrn16_4 has no GradMix peer: give small_cnn or resnet18\n"


# Short comparisons. On a busy machine they are unreliable and say so, which is no failure here.


def test_smoke_run_without_torch_reports_our_speed_alone(load, capsys):
    assert load("speed_train").main(["--smoke"]) == 0
    lines, result = last_line(capsys)
    assert result["what"] == "train"
    assert result["ratio"] is None
    assert result["reliable"] is None
    assert result["images_per_second"]["small_cnn"]["osrjax"] > 0
    assert result["images_per_second_median"]["small_cnn"]["osrjax"] > 0
    assert "torch" not in result["versions"]
    assert sum("pip install '.[speed]'" in line for line in lines) == 1


def test_smoke_run_of_jacobian_norms_reports_time_and_memory(load, capsys):
    assert load("speed_jacobian").main(["--smoke"]) == 0
    lines, result = last_line(capsys)
    assert result["ratio"] is None
    assert result["overhead"] == result["overheads"]["small_cnn"]
    assert result["overhead"] is None if "small_cnn, overhead" in result["unreliable"] else result["overhead"] > 0
    assert result["reliable"] is (result["overhead"] is not None)
    programs = result["mib_at_batch_2"]["small_cnn"]
    assert programs["osrjax, default"] == result["peak_mib"] < programs["jax.vmap(jax.jacrev)"]
    assert programs["osrjax, reverse, chunk 3"] < programs["osrjax, default"]
    assert result["auto"]["cells"] == 1
    assert 0 <= result["auto"]["right"] <= result["auto"]["clear"] <= 1 - result["auto"]["unreliable"]
    # two of ours, two single passes and two gradients, three programs of two images, one cell of the grid
    assert sum(line.startswith("small_cnn ") for line in lines) == 9
    assert sum("gradient of a norm" in line for line in lines) == 2
    assert sum(line.split()[0] == "4x4x1" for line in lines) == 1


def test_smoke_run_of_gradmix_steps_reports_time_and_arithmetic(load, capsys):
    assert load("speed_gradmix").main(["--smoke"]) == 0
    lines, result = last_line(capsys)
    assert result["ratio"] is None
    assert result["ratio_fast_form"] is None
    assert result["batch"] == 8
    assert result["ms_per_step"]["small_cnn"]["osrjax"] > 0
    # 1 (clean) + 0.5 (masked) + 3 (backward) + a part of 1 (maps) and the optimiser, not 9 as in the plain form
    assert 4.5 < result["forward_equivalents"] < 6.5
    assert sum(line.startswith("small_cnn ") for line in lines) == 1


def test_smoke_run_of_a_sweeps_steps_reports_one_layout(load, capsys):
    assert load("speed_sweep").main(["--smoke", "--steps"]) == 0
    lines, result = last_line(capsys)
    assert result["total_ratio"] is None
    assert result["lanes"] == 2
    ratios = result["steady_ratios"]["small_cnn"]
    assert list(ratios) == ["a single lane's step", "its FLOPs as matrix products", "sweep, auto"]
    assert result["steady_ratio"] == ratios["sweep, auto"]
    assert result["reliable"] is (result["steady_ratio"] is not None)
    assert sum(line.startswith("small_cnn ") for line in lines) == 3


# Made-up times.


class MadeUpSide:
    """A side whose works take the times that are given, a block after the other."""

    def __init__(self, load, facts, **times):
        self.turns, self.names, self.facts = load("turns"), list(times), facts
        self.times = {who: itertools.cycle(values) for who, values in times.items()}

    def turn(self, who, shortest, settle):
        return self.turns.Turn([next(self.times[who]) for _ in range(3)])


OUR_FACTS = {"versions": {"jax": "1"}, "device": "made up"}


def with_sides(load, monkeypatch, *sides):
    comparison = load("comparison")
    monkeypatch.setattr(comparison, "find_torch", lambda: True)
    monkeypatch.setattr(comparison, "both_sides", lambda ours, theirs, torch: contextlib.nullcontext(list(sides)))


def test_no_ratio_is_printed_where_pytorch_falls_13_times_behind(load, monkeypatch, capsys):
    """As it happened: in half of its blocks."""
    torch = {"torch, contiguous": [0.4, 5.2], "torch, channels_last": [0.3]}
    peers = MadeUpSide(load, {"versions": {"torch": "2"}, "torch_threads": 2}, **torch)
    with_sides(load, monkeypatch, MadeUpSide(load, OUR_FACTS, osrjax=[0.4]), peers)
    assert load("speed_train").main(["--networks", "small_cnn", "--repeats", "6"]) == 0
    lines, result = last_line(capsys)
    assert result["ratio"] == {"small_cnn": None}
    assert result["ratio_quartiles"] == {"small_cnn": None}
    assert result["reliable"] is False
    assert list(result["unreliable"]) == ["small_cnn"]
    spreads = {"osrjax": 1.0, "torch, contiguous": 13.0, "torch, channels_last": 1.0}
    assert result["spreads"]["small_cnn"] == spreads
    assert result["allowed_spread"] == 1.5
    assert result["versions"] == {"jax": "1", "torch": "2"}
    rows = [line.split()[-1] for line in lines if line.startswith("small_cnn ")]
    assert rows == ["1.00", "unreliable", "0.75"]  # our row ends with its spread
    (reason,) = [line for line in lines if line.startswith("small_cnn: unreliable: ")]
    assert "'torch, contiguous'" in reason
    assert reason.endswith("stop what else runs on this machine, and measure again with more --repeats")


def test_the_ratio_is_that_of_the_fastest_peer(load, monkeypatch, capsys):
    torch = {"torch, contiguous": [0.4], "torch, channels_last": [0.3]}
    peers = MadeUpSide(load, {"versions": {"torch": "2"}, "torch_threads": 2}, **torch)
    with_sides(load, monkeypatch, MadeUpSide(load, OUR_FACTS, osrjax=[0.4]), peers)
    assert load("speed_train").main(["--networks", "small_cnn", "resnet18", "--repeats", "6"]) == 0
    _, result = last_line(capsys)
    assert result["ratio"] == {"small_cnn": 0.75, "resnet18": 0.75}
    assert result["ratio_quartiles"]["small_cnn"] == [0.75, 0.75]
    assert result["reliable"] is True
    assert result["images_per_second"]["resnet18"]["osrjax"] == 32 / 0.4
    assert result["torch_threads"] == 2


def test_of_the_two_forms_of_gradmix_one_may_be_unreliable(load, monkeypatch, capsys):
    forms = {"plain": ["torch, plain"], "fast": ["torch, fast"]}
    facts = {**OUR_FACTS, "flops": {"osrjax": 10.0}, "forward_flops": 2.0}
    torch = {"torch, plain": [1.4], "torch, fast": [0.8, 10.4]}
    peers = MadeUpSide(load, {"versions": {"torch": "2"}, "forms": forms}, **torch)
    with_sides(load, monkeypatch, MadeUpSide(load, facts, osrjax=[1.0]), peers)
    assert load("speed_gradmix").main([]) == 0
    _, result = last_line(capsys)
    assert (result["ratio"], result["ratio_fast_form"], result["forward_equivalents"]) == (1.4, None, 5.0)
    assert list(result["unreliable"]) == ["resnet18, fast form"]


def test_the_least_favourable_number_is_unknown_where_one_is(load):
    of_all = load("comparison").of_all
    assert of_all(min, [3.0, 2.0]) == 2.0
    assert of_all(max, [3.0, 2.0]) == 3.0
    assert of_all(min, [3.0, None]) is None
    assert of_all(min, []) is None


@pytest.mark.parametrize(("seconds", "sweeps"), [(50.0, 2), (49.0, 1)])
def test_a_sweep_is_repeated_between_runs_if_there_is_time(load, seconds, sweeps):
    script, order = load("speed_sweep"), []

    def single(seed):
        order.append(seed)
        return script.Turn([6.0 if seed else 12.0])

    def sweep(number):
        order.append(f"sweep {number}")
        return script.Turn([10.0])

    seen = script.whole_runs(4, single, sweep, seconds)
    assert order == [0, 1, "sweep 0", 2, 3, "sweep 1"][: 4 + sweeps]
    assert seen.seconds == {script.RUN: [[12.0], [6.0], [6.0], [6.0]], script.SWEEP: [[10.0]] * sweeps}


@pytest.mark.parametrize(
    ("runs", "taken", "ratio"),
    [([4.0, 4.0, 5.0, 4.0], 0.0, 1.6), ([4.0, 40.0, 40.0, 4.0], 0.0, None), ([4.0, 4.0, 5.0, 4.0], 1.0, None)],
)
def test_whole_runs_that_differ_or_had_half_of_the_cores_have_no_ratio(load, monkeypatch, capsys, runs, taken, ratio):
    script = load("speed_sweep")
    single, sweep = lambda seed: script.Turn([runs[seed]]), lambda number: script.Turn([10.0], taken=taken)
    monkeypatch.setattr(script, "starters", lambda *case, smoke: (single, sweep))
    config = dataclasses.replace(script.Config(), lanes=4, networks=(), steps=(200,), seconds=0.0)
    result = script.sweep_speed(config)
    assert result["total_ratio"] == result["total_ratios"][200] == ratio
    assert result["seconds"] == {200: (16.0, 10.0)}
    assert result["run_seconds"] == {200: {script.RUN: runs, script.SWEEP: [10.0]}}
    assert result["repeated"] == {200: False}
    assert result["reliable"] is (ratio is not None)
    printed = capsys.readouterr().out
    assert "once: how far another sweep would differ is not known" in printed
    assert ("unreliable" in printed) is (ratio is None)


def test_a_script_that_fails_is_told_with_its_last_words(load):
    script = load("speed_sweep")
    assert script.finished(["-c", "pass"]).blocks[0] > 0
    with pytest.raises(OSError, match="exit 1: no luck today"):
        script.finished(["-c", "raise SystemExit('no luck today')"])


# Our side.


def test_a_single_pass_is_worth_its_share_of_all_directions(load):
    from osrjax.models.backbones import SmallCNN

    passes = load("jacobian_passes")
    embedding = passes.unit_embedding(SmallCNN(width=2, features=8), (4, 4, 1))
    assert (embedding.inputs, embedding.outputs) == (16, 8)
    reverse = passes.single_pass(embedding, 3, 2, "reverse")
    forward = passes.single_pass(embedding, 3, 2, "forward")
    assert (reverse.images, forward.images) == (3 * 2 / 8, 3 * 2 / 16)
    assert reverse.call()[0].shape == (2, 3, 4, 4, 1)
    assert forward.call().shape == (2, 3, 8)


def test_views_of_a_gradmix_step_differ_in_contrast_alone(load, rng):
    import jax

    speed_gradmix = load("speed_gradmix")

    images = jax.numpy.asarray(rng.integers(1, 256, (2, 3, 3, 1)), jax.numpy.uint8)
    first, second = (np.asarray(speed_gradmix.view(jax.random.key(k), images)) for k in (0, 1))
    ratios = first / second
    np.testing.assert_allclose(ratios, ratios[0, 0, 0, 0], rtol=1e-5)
    assert abs(ratios[0, 0, 0, 0] - 1) > 0.01


# The peers.


@pytest.mark.parametrize("route", ["loop", "jacrev", "jacrev in chunks"])
def test_norms_of_the_peers_agree_with_finite_differences(load, rng, route):
    torch = pytest.importorskip("torch")
    torch_peers, torch_networks = load("torch_peers"), load("torch_networks")
    torch.manual_seed(0)
    model = torch_networks.small_cnn(1).double().eval().requires_grad_(False)
    images = torch.tensor(rng.uniform(-1.0, 1.0, (2, 1, 8, 8)))
    expected = []
    for image in images.numpy():
        steps = 1e-5 * np.eye(64).reshape(64, 1, 8, 8)
        up, down = (model(torch.tensor(image + sign * steps)).numpy() for sign in (1, -1))
        rows = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (up, down)]
        expected.append(math.sqrt(np.sum(((rows[0] - rows[1]) / 2e-5) ** 2)))
    norms = {
        "loop": lambda: torch_peers.loop_norms(model, images),
        "jacrev": lambda: torch_peers.jacrev_norms(model, images, chunk_size=None),
        "jacrev in chunks": lambda: torch_peers.jacrev_norms(model, images, chunk_size=3),
    }
    np.testing.assert_allclose(norms[route]().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(("network", "side"), [("small_cnn", 16), ("resnet18", 8)])
def test_gradmix_peers_mask_the_same_boxes_and_agree_in_eval_mode(load, rng, network, side):
    torch = pytest.importorskip("torch")
    torch_peers, torch_networks = load("torch_peers"), load("torch_networks")
    torch.manual_seed(0)
    channels = load("comparison").image_shape(network)[-1]
    model = torch_networks.ContrastiveNetwork(network, channels).double()
    draw = iter(torch.tensor(rng.uniform(-1.0, 1.0, (3, 4, channels, side, side))))
    model(next(draw))  # running statistics that fit the images
    first, second = draw
    noise, labels = torch.tensor(rng.uniform(size=(4, 1, side, side))), torch.arange(4) % 2
    passed = []
    model.register_forward_pre_hook(lambda _, arguments: passed.append(arguments[0]))
    found = {}
    for mode in (True, False):
        model.train(mode)
        for form in (torch_peers.plain_gradmix_gradients, torch_peers.fast_gradmix_gradients):
            model.zero_grad()
            loss = form(model, first, second, labels, 0.6, noise, temperature=0.2)
            gradients = [parameter.grad.numpy() for parameter in model.parameters()]
            found[mode, form.__name__] = loss.item(), gradients, passed[-1][:4]
    # The plain form embeds both views twice, and the second view with the masked one; the fast form each view once.
    assert [len(images) for images in passed] == 2 * [8, 8, 8, 8, 4]
    for mode in (True, False):
        plain, fast = (found[mode, f"{form}_gradmix_gradients"] for form in ("plain", "fast"))
        torch.testing.assert_close(fast[2], plain[2], rtol=0, atol=0)
        boxes = (plain[2] != first).all(1).double().mean((1, 2))
        largest = (2 * int(side * 0.4**0.5 / 2) / side) ** 2  # within the image; at least a quarter in a corner
        assert ((boxes >= largest / 4) & (boxes <= largest)).all()
    # In train mode the statistics of the mixed batch differ; in eval mode nothing does.
    np.testing.assert_allclose(fast[0], plain[0], rtol=1e-12)
    for ours, theirs in zip(fast[1], plain[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_losses_of_the_gradmix_peers_have_the_values_of_the_authors_code(load):
    torch = pytest.importorskip("torch")
    torch_peers = load("torch_peers")
    i, v, d = np.ogrid[:6, :2, :8]
    z = np.sin(1 + 0.7 * i + 0.3 * v + 0.9 * d + 0.11 * i * d)
    p = np.where(v == 0, np.cos(0.5 + 0.7 * i + 0.9 * d + 0.05 * i * d), z)
    z, p = (torch.tensor(x / np.linalg.norm(x, axis=2, keepdims=True)).swapaxes(0, 1).reshape(12, 8) for x in (z, p))
    pair, labels = torch.arange(6).repeat(2), torch.tensor([0, 0, 1, 1, 2, 2]).repeat(2)
    z.requires_grad_(True)
    losses = [torch_peers.contrastive_loss(z, *other, 0.05) for other in ((z, pair), (z, labels), (p, pair))]
    np.testing.assert_allclose([loss.item() for loss in losses], [0.005342, 4.233724, 0.819207], atol=1e-6)
    losses[0].backward()
    with torch.no_grad():
        torch.testing.assert_close(torch_peers.nt_xent_gradient(z, pair, 0.05), z.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("network", ["small_cnn", "resnet18"])
def test_gradmix_peers_have_as_many_parameters_as_our_network(load, network):
    pytest.importorskip("torch")
    import jax

    from osrjax.models.backbones import NETWORKS
    from osrjax.models.networks import ContrastiveNetwork

    shape = load("comparison").image_shape(network)
    model = ContrastiveNetwork(NETWORKS[network]())
    images = jax.ShapeDtypeStruct((1, *shape), jax.numpy.float32)
    ours = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images)["params"]
    theirs = load("torch_networks").ContrastiveNetwork(network, shape[-1]).parameters()
    assert sorted(p.numel() for p in theirs) == sorted(p.size for p in jax.tree.leaves(ours))


# Refusals.


def test_a_network_without_a_gradmix_peer_is_refused(load, capsys):
    assert load("speed_gradmix").main(["--networks", "wrn16_4"]) == 2
    assert "wrn16_4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        *(["train", *options] for options in (["--repeats", "2"], ["--batch", "1"])),
        ["gradmix", "--batch", "1"],
        *(["jacobian", *options] for options in (["--batch", "0"], ["--memory-batch", "0"], ["--chunks", "0"])),
        *(["sweep", *options] for options in (["--lanes", "1"], ["--steps", "0"], ["--batch", "1"])),
    ],
)
def test_too_small_a_measurement_is_refused(load, capsys, arguments):
    what, name, value = arguments
    assert load(f"speed_{what}").main([name, value]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"speed_{what}.py: {name.removeprefix('--')}={value} ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("python", ["{directory}/nowhere", "{directory}"])
def test_an_interpreter_without_pytorch_is_refused(load, capsys, tmp_path, python):
    python = python.format(directory=tmp_path)
    assert load("speed_train").main(["--torch-python", python]) == 2
    assert f"torch-python='{python}' cannot import torch: " in capsys.readouterr().err
