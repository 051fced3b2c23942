import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = str(Path(__file__).parents[1] / "experiments" / "speed.py")


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(SCRIPT).parent))
    module = runpy.run_path(SCRIPT)
    monkeypatch.setitem(module["main"].__globals__, "find_torch", lambda: False)
    # The allocator's settings would last for all tests of this process.
    monkeypatch.setitem(module["main"].__globals__, "reuse_host_memory", lambda: False)
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

    from osrjax.models import SmallCNN

    embedding = speed_jacobian.unit_embedding(SmallCNN(width=2, features=8), (4, 4, 1))
    assert (embedding.inputs, embedding.outputs) == (16, 8)
    reverse = speed_jacobian.single_pass(embedding, 3, 2, "reverse")
    forward = speed_jacobian.single_pass(embedding, 3, 2, "forward")
    assert (reverse.images, forward.images) == (3 * 2 / 8, 3 * 2 / 16)
    assert reverse.call()[0].shape == (2, 3, 4, 4, 1)
    assert forward.call().shape == (2, 3, 8)


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


@pytest.mark.parametrize("arguments", [["--repeats", "2"], ["--batch", "1"]])
def test_too_small_a_measurement_is_refused(main, capsys, arguments):
    assert main(arguments) == 2
    name = arguments[0].removeprefix("--")
    assert f"{name}={arguments[1]}" in capsys.readouterr().err


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
