import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = str(Path(__file__).parents[2] / "experiments" / "speed.py")


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(SCRIPT).parent))
    module = runpy.run_path(SCRIPT)
    monkeypatch.setitem(module["main"].__globals__, "find_torch", lambda: False)
    # The allocator's settings would last for all tests of this process.
    monkeypatch.setitem(module["main"].__globals__, "reuse_host_memory", lambda shared: False)
    return module["main"]


def test_smoke_run_without_torch_reports_our_speed_alone(main, capsys):
    assert main(["--what", "train", "--smoke"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    assert result["ratio"] is None
    assert result["images_per_second"]["small_cnn"]["osrjax"] > 0
    assert "torch" not in result["versions"]
    assert sum("pip install '.[speed]'" in line for line in lines) == 1


def test_smoke_run_of_jacobian_norms_reports_time_and_memory(main, capsys):
    assert main(["--what", "jacobian", "--smoke"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    assert result["ratio"] is None
    assert result["overhead"] == result["overheads"]["small_cnn"] > 0
    programs = result["mib_at_batch_2"]["small_cnn"]
    assert programs["osrjax, default"] == result["peak_mib"] < programs["jax.vmap(jax.jacrev)"]
    assert programs["osrjax, reverse, chunk 3"] < programs["osrjax, default"]
    assert result["auto"]["cells"] == 1
    assert 0 <= result["auto"]["right"] <= result["auto"]["clear"] <= 1
    # two of ours and two single passes, three programs of two images, one cell of the grid
    assert sum(line.startswith("small_cnn ") for line in lines) == 7
    assert sum(line.split()[0] == "4x4x1" for line in lines) == 1


def test_a_single_pass_is_worth_its_share_of_all_directions(main):
    import speed_jacobian

    from osrjax.models.backbones import SmallCNN

    embedding = speed_jacobian.unit_embedding(SmallCNN(width=2, features=8), (4, 4, 1))
    assert (embedding.inputs, embedding.outputs) == (16, 8)
    reverse = speed_jacobian.single_pass(embedding, 3, 2, "reverse")
    forward = speed_jacobian.single_pass(embedding, 3, 2, "forward")
    assert (reverse.images, forward.images) == (3 * 2 / 8, 3 * 2 / 16)
    assert reverse.call()[0].shape == (2, 3, 4, 4, 1)
    assert forward.call().shape == (2, 3, 8)


def test_smoke_run_of_gradmix_steps_reports_time_and_arithmetic(main, capsys):
    assert main(["--what", "gradmix", "--smoke"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    assert result["ratio"] is None
    assert result["ratio_fast_form"] is None
    assert result["batch"] == 8
    assert result["ms_per_step"]["small_cnn"]["osrjax"] > 0
    # 1 (clean) + 0.5 (masked) + 3 (backward) + a part of 1 (maps) and the optimiser, not 9 as in the plain form
    assert 4.5 < result["forward_equivalents"] < 6.5
    assert sum(line.startswith("small_cnn ") for line in lines) == 1


def test_views_of_a_gradmix_step_differ_in_contrast_alone(main, rng):
    import jax
    import speed_gradmix

    images = jax.numpy.asarray(rng.integers(1, 256, (2, 3, 3, 1)), jax.numpy.uint8)
    first, second = (np.asarray(speed_gradmix.view(jax.random.key(k), images)) for k in (0, 1))
    ratios = first / second
    np.testing.assert_allclose(ratios, ratios[0, 0, 0, 0], rtol=1e-5)
    assert abs(ratios[0, 0, 0, 0] - 1) > 0.01


def test_ratio_is_of_the_fastest_of_each_side(main):
    seconds = {"a": [1.0, 1.0, 1.0, 1.0, 1.0], "b": [9.0] * 5, "c": [2.0, 3.0, 4.0, 5.0, 6.0], "d": [8.0] * 5}
    assert main.__globals__["ratio"](seconds, ["b", "a"], ["d", "c"]) == (4.0, [2.5, 5.5])


@pytest.mark.parametrize("route", ["loop", "jacrev", "jacrev in chunks"])
def test_norms_of_the_peers_agree_with_finite_differences(main, rng, route):
    torch = pytest.importorskip("torch")
    import torch_peers

    torch.manual_seed(0)
    model = torch_peers.small_cnn(1).double().eval().requires_grad_(False)
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
def test_gradmix_peers_mask_the_same_boxes_and_agree_in_eval_mode(main, rng, network, side):
    torch = pytest.importorskip("torch")
    import torch_peers

    torch.manual_seed(0)
    channels = main.__globals__["image_shape"](network)[-1]
    model = torch_peers.ContrastiveNetwork(network, channels).double()
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


def test_losses_of_the_gradmix_peers_have_the_values_of_the_authors_code(main):
    torch = pytest.importorskip("torch")
    import torch_peers

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
def test_gradmix_peers_have_as_many_parameters_as_our_network(main, network):
    pytest.importorskip("torch")
    import jax
    import torch_peers

    from osrjax.models.backbones import NETWORKS
    from osrjax.models.networks import ContrastiveNetwork

    shape = main.__globals__["image_shape"](network)
    model = ContrastiveNetwork(NETWORKS[network]())
    images = jax.ShapeDtypeStruct((1, *shape), jax.numpy.float32)
    ours = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images)["params"]
    theirs = torch_peers.ContrastiveNetwork(network, shape[-1]).parameters()
    assert sorted(p.numel() for p in theirs) == sorted(p.size for p in jax.tree.leaves(ours))


def test_a_network_without_a_gradmix_peer_is_refused(main, capsys):
    assert main(["--what", "gradmix", "--networks", "wrn16_4"]) == 2
    assert "wrn16_4" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--repeats", "2"], ["--batch", "1"], ["--what", "gradmix", "--batch", "1"]])
def test_too_small_a_measurement_is_refused(main, capsys, arguments):
    assert main(arguments) == 2
    name = arguments[-2].removeprefix("--")
    assert f"{name}={arguments[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--memory-batch", "0"], ["--chunks", "0"]])
def test_an_empty_measurement_of_jacobians_is_refused(main, capsys, arguments):
    assert main(["--what", "jacobian", *arguments]) == 2
    assert "=".join(arguments).removeprefix("--") in capsys.readouterr().err


def test_turns_leave_the_first_one_out_and_serve_everyone(main):
    calls = {"a": 0, "b": 0}

    def unit(who):
        calls[who] += 1

    turns = main.__globals__["turns"]
    turns.__globals__["SHORTEST_TURN"] = 0.0
    seconds = turns({who: lambda who=who: unit(who) for who in calls}, 4)
    assert {who: len(times) for who, times in seconds.items()} == {"a": 3, "b": 3}
    assert calls == {"a": 6, "b": 6}  # two to warm up, one a turn
