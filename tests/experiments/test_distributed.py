"""Two real processes over loopback, as on a pod: the same numbers, one end for all, restarts on other numbers."""

import json
import signal
import socket
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, load_script, quick_process
from narrow import narrow_network

from osrjax.devices import processes, sharding

PEER_TIMEOUT = 60
OFTEN = ["--smoke", "--log-every", "1", "--save-every", "5", "--resamples", "0"]
TRAIN = [*OFTEN, "--steps", "30"]
CONTRASTIVE = [*OFTEN, "--steps", "6", "--mixing", "random_box", "--no-linear-probe", "--no-untrained"]
# Adam moves a weight whose gradient is rounding alone by a whole step, either way: hence small steps.
CONTRASTIVE += ["--learning-rate", "1e-5", "--final-learning-rate", "1e-6"]


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """As in the processes that are started."""
    with narrow_network():
        yield


@pytest.fixture
def start_two():
    """Starts two processes of a script that join each other, each with its own arguments; ends what is left of them."""
    all_started = []

    def start(script, first, second):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        join = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--peer-timeout", str(PEER_TIMEOUT)]
        started = [
            quick_process(EXPERIMENTS / script, *arguments, *join, "--process", str(number), JAX_NUM_CPU_DEVICES="1")
            for number, arguments in enumerate((first, second))
        ]
        all_started.extend(started)
        return started

    yield start
    for process in all_started:
        process.kill()
        process.communicate()


def ends(started):
    """Exit codes, outputs and errors."""
    found = [process.communicate(timeout=250) for process in started]
    return [process.returncode for process in started], *zip(*found, strict=True)


def wait_for(seen, started):
    deadline = time.monotonic() + 200
    while not seen():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in started), ends(started)
        time.sleep(0.02)


def logged(run, name):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]]
    return {line["step"]: line[f"train/{name}"] for line in lines}


def losses(run):
    return logged(run, "loss")


def assert_same_numbers(found, wanted, *, tolerance):
    """Losses of all steps, the final network and the scores of every image, up to the order of sums."""
    assert losses(found).keys() == losses(wanted).keys()
    np.testing.assert_allclose(*(list(losses(run).values()) for run in (found, wanted)), rtol=tolerance)
    for name in ("network.npz", "scores.npz"):
        with np.load(found / name) as one, np.load(wanted / name) as other:
            assert one.files == other.files
            for array in one.files:
                np.testing.assert_allclose(one[array], other[array], atol=tolerance, rtol=tolerance, err_msg=array)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of one process that nothing happened to."""
    run = tmp_path_factory.mktemp("runs") / "one"
    assert load_script("train").main([*TRAIN, "--out", str(run), "--devices", "1"]) == 0
    return run


def test_sigterm_to_one_process_saves_and_stops_both_and_a_single_one_goes_on(start_two, undisturbed, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [*TRAIN, "--out", str(run), "--stream"]
    # One device a process: with two, jaxlib 0.10.2 on two busy cores rarely waits for ever within a collective.
    started = start_two("train.py", arguments, arguments)
    # It compiles the first step then: JAX looks for signals once a second.
    wait_for(lambda: (run / "provenance.json").exists() and '"jax"' in (run / "provenance.json").read_text(), started)
    started[1].send_signal(signal.SIGTERM)
    codes, outputs, errors = ends(started)
    assert codes == [143, 143], errors
    stopped = max(losses(run))
    assert 1 <= stopped < 30
    assert f"stopped by SIGTERM after saving step {stopped}" in outputs[0]
    assert "train.py" not in outputs[1] + errors[1]  # process 0 alone speaks
    assert str(stopped) in {path.name for path in (run / "checkpoints").iterdir()}
    assert load_script("train").main([*TRAIN, "--out", str(run), "--devices", "1"]) == 0
    assert f"going on from step {stopped}" in capsys.readouterr().out
    assert_same_numbers(run, undisturbed, tolerance=1e-3)


def test_a_killed_process_ends_the_other_in_time_and_a_restart_completes(start_two, undisturbed, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [*TRAIN, "--out", str(run)]
    started = start_two("train.py", arguments, arguments)
    # The save at step 10 waits until that at step 5 is on disk.
    wait_for(lambda: (run / "metrics.jsonl").exists() and max(losses(run), default=0) > 10, started)
    started[1].kill()
    killed = time.monotonic()
    codes, _, errors = ends(started)
    assert time.monotonic() - killed < PEER_TIMEOUT
    # Gloo says at once that its peer is gone; JAX's service, where the process waited for it and not for Gloo.
    assert codes in ([1, -signal.SIGKILL], [-signal.SIGABRT, -signal.SIGKILL])
    message = "train.py: process 0 lost another process of the run" if codes[0] == 1 else "another task died"
    assert message in errors[0]
    assert load_script("train").main([*TRAIN, "--out", str(run), "--devices", "1"]) == 0
    assert "going on from step" in capsys.readouterr().out
    assert_same_numbers(run, undisturbed, tolerance=1e-3)


def test_a_non_finite_loss_ends_both_processes(start_two, tmp_path):
    arguments = [*TRAIN, "--learning-rate", "1e38", "--out", str(tmp_path / "run")]
    codes, _, errors = ends(start_two("train.py", arguments, arguments))
    assert codes == [1, 1], errors
    lines = [line for line in errors[0].splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1
    assert "non-finite" in lines[0]
    assert "Lower learning_rate=1e+38" in lines[0]
    assert "train.py" not in errors[1]  # process 0 alone speaks


def test_two_processes_contrast_as_one(start_two, tmp_path):
    two, one = ([*CONTRASTIVE, "--out", str(tmp_path / name)] for name in ("two", "one"))
    codes, outputs, errors = ends(start_two("contrastive.py", two, two))
    assert codes == [0, 0], errors
    assert "source: digits" in outputs[0]
    assert "source: digits" not in outputs[1]
    assert load_script("contrastive").main([*one, "--devices", "1"]) == 0
    assert_same_numbers(tmp_path / "two", tmp_path / "one", tolerance=2e-4)
    norms = [list(logged(tmp_path / name, "grad_norm").values()) for name in ("two", "one")]
    np.testing.assert_allclose(*norms, rtol=1e-2)


def test_lanes_over_two_processes_are_those_of_one(start_two, tmp_path):
    """Three lanes: a fourth one pads them, and is not kept."""
    sweep = ["--smoke", "--steps", "6", "--splits", "0", "--seeds", "3", "--save-every", "3"]
    sweep += ["--log-every", "3", "--probe-every", "3"]
    two, one = ([*sweep, "--out", str(tmp_path / name)] for name in ("two", "one"))
    codes, outputs, errors = ends(start_two("ablation.py", two, two))
    assert codes == [0, 0], errors
    assert "3 lanes in 1 program, loop on 2 devices" in outputs[0]
    assert "lanes" not in outputs[1] + errors[1]  # process 0 alone speaks
    assert load_script("ablation").main([*one, "--devices", "1"]) == 0
    found = []
    for name in ("two", "one"):
        with np.load(tmp_path / name / "group-0" / "outputs.npz") as stored:
            found.append(stored["logits"])
        assert (tmp_path / name / "results.csv").read_text().count("\n") == 4
        assert (tmp_path / name / "history.csv").read_text().count("\n") == 7
    np.testing.assert_allclose(*found, atol=1e-3)


def test_a_part_cut_for_one_process_and_a_signal_between_programs_hang_nobody(start_two, tmp_path):
    """Each process reads its own part of a checkpoint; a signal may come when no step is left to count."""
    arguments = ["--out", str(tmp_path)]
    codes, outputs, errors = ends(start_two(Path(__file__).parent / "two_processes.py", arguments, arguments))
    assert codes == [0, 0], errors
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert found[0]["cut"] > 0
    assert [process["step"] for process in found] == [5, 5]
    assert [process["right"] for process in found] == [True, True]
    assert all(process["reports"][0].startswith("checkpoint of step 10 is damaged (") for process in found)
    assert found[0]["stopped"] == found[1]["stopped"] < 5
    assert [process["exit_code"] for process in found] == [143, 143]


def test_processes_with_different_commands_refuse_together(start_two, tmp_path):
    arguments = [*TRAIN, "--out", str(tmp_path / "run")]
    codes, _, errors = ends(start_two("train.py", arguments, [*arguments, "--seed", "7"]))
    assert codes == [2, 2]
    assert "train.py: process 1 has another seed than process 0, which has '0'" in errors[0]
    assert "train.py" not in errors[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "localhost:1"}, "coordinator='localhost:1' alone does not say who joins"),
        ({"processes": 2}, "processes=2 needs the address of process 0"),
        ({"process": 0}, "process=0 needs the address of process 0"),
        ({"coordinator": "x", "processes": 2, "process": 0}, "coordinator='x' is not HOST:PORT"),
        ({"coordinator": "a:0", "processes": 2, "process": 0}, "coordinator='a:0' is not HOST:PORT"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process=2 is out of range with processes=2"),
        ({"mode": "auto", "coordinator": "a:1"}, "are two ways to start: leave one out"),
        ({"peer_timeout": 0}, "peer_timeout=0 is below 1"),
        (
            {"coordinator": "127.0.0.1:1", "processes": 2, "process": 1, "start_timeout": 0},
            "coordinator='127.0.0.1:1' does not answer after 0 s",
        ),
    ],
)
def test_bad_ways_to_start(options, message):
    with pytest.raises(ValueError, match=message):
        sharding.start_distributed(**options)


def test_a_taken_port_is_refused():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(ValueError, match="cannot be opened"):
            sharding.start_distributed(coordinator=address, processes=2, process=0)


def test_one_process_starts_nothing_and_agrees_with_itself(tmp_path):
    assert not sharding.start_distributed(mode="none")
    assert not sharding.start_distributed(coordinator="localhost:8476", processes=1, process=0)
    assert processes.is_first()
    assert processes.refuse_together(lambda: 3) == 3
    processes.check_alike({"steps": 3})
    with pytest.raises(ValueError, match="give an --out on a file system that all share"):
        processes.check_shared(tmp_path / "absent", wait=0.0)
    with pytest.raises(KeyError), processes.end_together("toy.py"):
        raise KeyError


def test_a_device_without_memory_is_a_line_and_an_exit_code(capsys):
    with pytest.raises(SystemExit) as end, processes.end_together("toy.py"):
        jax.jit(lambda: jnp.ones(1 << 46))().block_until_ready()
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("toy.py: a device has too little memory (RESOURCE_EXHAUSTED: Out of memory")
    assert error.endswith("stopped; lower batch_size, or use more devices\n")
    assert error.count("\n") == 1


def test_an_interrupt_outside_of_the_steps_is_a_line_and_an_exit_code(capsys):
    with pytest.raises(SystemExit) as end, processes.end_together("toy.py"):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == (
        "toy.py: interrupted: stopped; the same command goes on from the last checkpoint, if there is one\n"
    )
