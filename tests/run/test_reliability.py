"""What machines do to runs: full disks, damaged files, clocks that jump, signals at any moment, two starts at once."""

import contextlib
import gc
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import finish, load_script, start
from toy_loop import ADD, logged, looped

from osrjax.analysis.norms import dataset_jacobian_norms
from osrjax.analysis.probe import join_probes, write_probe
from osrjax.data.source import checked_examples
from osrjax.files import FileError, write_arrays
from osrjax.run.checkpoint import Checkpoints, UnreadableCheckpointsError
from osrjax.run.directory import Run, read_network
from osrjax.run.signals import StopSignal

# A failed save or read leaves asyncio tasks of Orbax behind, which complain when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def collected():
    """Collects what these tests leave behind while its complaints are expected, not during another module's test."""
    yield
    gc.collect()


@contextlib.contextmanager
def disk_that_ends_at(size):
    """Within, no file of this process grows beyond so many bytes, as if the disk were full; given is what resizes."""
    before, kept = resource.getrlimit(resource.RLIMIT_FSIZE), jax.config.jax_persistent_cache_min_compile_time_secs

    def resize(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)  # no program is kept on that disk
    resize(size)
    try:
        yield resize
    finally:
        resize(before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", kept)


def one_line(captured, script, *parts):
    """Whether an error is one clear line of a script; parts must be in it."""
    assert captured.startswith(f"{script}: "), captured
    assert captured.count("\n") == 1, captured
    for part in parts:
        assert part in captured, captured


# ------------------------------------------------------------------------------------------- full disk


NOISE = np.random.default_rng(0).normal(size=20_000).astype(np.float32)  # does not compress


def large(directory, **options):
    """The toy run with a checkpoint of 80 kB."""
    add = jax.jit(lambda state, value: ({name: x + value for name, x in state.items()}, {"loss": value}))
    state = {"sum": jnp.zeros(()), "noise": jnp.asarray(NOISE)}
    return looped(directory, train_step=add, state=state, **options)


def test_a_disk_that_fills_up_leaves_the_checkpoint_before_and_the_run_goes_on(tmp_path):
    wanted = large(tmp_path / "undisturbed")

    def validate(state):
        if float(state["sum"]) > 55:  # the checkpoint of step 5 is written, now comes that of step 10
            time.sleep(0.5)
            resize(30_000)
        return 1.0

    refused = pytest.raises(FileError, match=r"run/checkpoints cannot be written \(File too large\): make room")
    with disk_that_ends_at(resource.RLIM_INFINITY) as resize, refused:
        large(tmp_path / "run", validate=validate)
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [5]
    found = large(tmp_path / "run")
    assert found.exit_code == 0
    assert all(
        np.asarray(found.state[name]).tobytes() == np.asarray(wanted.state[name]).tobytes() for name in found.state
    )
    assert [line["step"] for line in logged(tmp_path / "run")] == [2, 4, 5, 6, 8, 10]


def test_every_file_that_cannot_be_written_is_named_and_the_earlier_one_is_kept(tmp_path):
    probe = {"step": np.asarray(3), "noise": NOISE}
    with Run(tmp_path / "run", {"a": 1}) as run:
        run.start_log(0)
        run.log(1, {"train/loss": 0.5})
        run.write_json("results.json", {"a": 1})
        run.write_arrays("scores.npz", {"x": np.arange(3)})
        network = {"params": {"kernel": np.arange(3.0)}}
        run.write_network(network)
        (event,) = (run.directory / "events").iterdir()
        log = run.directory / "metrics.jsonl"
        sizes = log.stat().st_size, event.stat().st_size
        with disk_that_ends_at(10):
            for name, write in {
                "results.json": lambda: run.write_json("results.json", {"a": list(range(100))}),
                "scores.npz": lambda: run.write_arrays("scores.npz", {"x": NOISE}),
                "network.npz": lambda: run.write_network({"params": {"kernel": NOISE}}),
                "00000003.npz": lambda: write_probe(run.directory / "probes", probe),
                "provenance.json": lambda: run.record_start({"backend": "cpu"}),
                "metrics.jsonl": lambda: run.log(2, {"train/loss": 0.25}),
            }.items():
                with pytest.raises(FileError, match=f"{name} cannot be written .File too large.: make room"):
                    write()
            with pytest.raises(FileError, match=r"metrics\.jsonl cannot be written"):
                run.close()
        assert (log.stat().st_size, event.stat().st_size) == sizes
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {"a": 1}
    assert read_network(tmp_path / "run" / "network.npz")["params"]["kernel"].tolist() == [0, 1, 2]
    # The directory is free again, and the log goes on.
    with Run(tmp_path / "run", {"a": 1}) as run:
        run.start_log(1)
        event = max((run.directory / "events").iterdir())
        with disk_that_ends_at(event.stat().st_size + 20), pytest.raises(FileError, match=event.name.split(".")[-2]):
            run.log(2, {"x": 0.0})
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 2]


def test_a_script_on_a_full_disk_says_so_in_one_line_and_goes_on(tmp_path, capfd):
    train = load_script("train")
    options = ["--smoke", "--steps", "4", "--save-every", "2", "--resamples", "0", "--devices", "1"]
    options += ["--out", str(tmp_path / "run")]
    with disk_that_ends_at(250_000):
        assert train.main(options) == 1
    one_line(capfd.readouterr().err, "train.py", "checkpoints cannot be written (File too large)", "same command again")
    assert train.main(options) == 0
    results = tmp_path / "run" / "results.json"
    wanted = json.loads(results.read_text())
    # A copy that was cut on the way.
    results.write_bytes(results.read_bytes()[:200])
    capfd.readouterr()
    assert train.main(options) == 1
    one_line(capfd.readouterr().err, "train.py", "results.json cannot be read, it is cut or damaged", "delete it and")
    (tmp_path / "run" / "config.json").rename(tmp_path / "config.json")
    (tmp_path / "run" / "config.json").write_text('{"preset": "bun')
    assert train.main(options) == 2
    one_line(capfd.readouterr().err, "train.py", "config.json cannot be read", "restore it, or start in a new")
    (tmp_path / "config.json").rename(tmp_path / "run" / "config.json")
    results.unlink()
    assert train.main(options) == 0
    assert "going on from step 4" in capfd.readouterr().out
    assert json.loads(results.read_text()) == wanted
    network = tmp_path / "run" / "network.npz"
    network.write_bytes(network.read_bytes()[:-1000])
    assert load_script("norms").main([str(tmp_path / "run")]) == 2
    one_line(capfd.readouterr().err, "norms.py", "network.npz cannot be read, it is cut or damaged", "delete it")


def test_a_directory_that_cannot_be_written(tmp_path):
    """A file system that is mounted read-only; for users without the right to mount, a directory without permission."""
    place = tmp_path / "place"
    place.mkdir()
    if os.getuid() == 0:
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not allowed")
    else:
        place.chmod(0o500)
    try:
        with pytest.raises(ValueError, match=r"cannot be written .*: choose another"):
            Run(place / "run", {})
        with pytest.raises(FileError, match="place/norms cannot be written"):
            dataset_jacobian_norms({"f": lambda v, x: x}, {}, np.ones((1, 2), np.float32), directory=place / "norms")
        with pytest.raises(FileError, match=r"place/a\.npz cannot be written"):
            write_arrays(place / "a.npz", {})
    finally:
        if os.getuid() == 0:
            subprocess.run(["umount", str(place)], check=True)
        else:
            place.chmod(0o700)


# ------------------------------------------------------------------------------------------- damaged files


def first_of(directory, pattern):
    return sorted(path for path in directory.rglob(pattern) if path.is_file())[0]


DAMAGE = {
    "empty data": lambda newest: first_of(newest, "d/*").write_bytes(b""),
    "half a manifest": lambda newest: os.truncate(first_of(newest, "manifest.ocdbt"), 40),
    "zeros": lambda newest: first_of(newest, "_METADATA").write_bytes(bytes(500)),
    "metrics without accuracy": lambda newest: (newest / "metrics" / "metrics").write_text("{}"),
    "cut metrics": lambda newest: (newest / "metrics" / "metrics").write_text('{"accu'),
    "other metadata": lambda newest: (newest / "_CHECKPOINT_METADATA").write_text("[1]"),
    "unreadable metadata": lambda newest: (newest / "_CHECKPOINT_METADATA").rename(newest / "_METADATA_ELSEWHERE"),
}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A finished toy run: by path, the bytes of its files."""
    directory = tmp_path_factory.mktemp("two") / "run"
    assert looped(directory).exit_code == 0
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_a_run_passes_a_damaged_checkpoint_over_and_ends_the_same(kind, two_checkpoints, tmp_path, capsys):
    run = tmp_path / "run"
    for path, data in two_checkpoints.items():
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_bytes(data)
    DAMAGE[kind](run / "checkpoints" / "10")
    result = looped(run)
    assert (result.exit_code, result.state["sum"]) == (0, 385)
    captured = capsys.readouterr()
    assert "checkpoint of step 10 is damaged" in captured.err
    assert "going on from step 5" in captured.out
    assert (run / "damaged-10").is_dir()


def test_metadata_that_is_a_directory(tmp_path):
    """Stands for every file that the operating system refuses to read, which it does not refuse a superuser."""
    metadata = tmp_path / "c" / "5" / "_CHECKPOINT_METADATA"
    metadata.mkdir(parents=True)
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UnreadableCheckpointsError, match="Is a directory"):
        checkpoints.restore_latest({"sum": jnp.zeros(())})


@pytest.mark.filterwarnings("ignore:metrics.jsonl")
def test_a_damaged_log_and_event_file_do_not_stop_a_run(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        looped(tmp_path / "run", kill_at=9)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-9] + b"\xff\x00")
    (event,) = (tmp_path / "run" / "events").iterdir()
    os.truncate(event, event.stat().st_size - 7)
    cut = event.read_bytes()
    assert looped(tmp_path / "run").exit_code == 0
    assert [line["step"] for line in logged(tmp_path / "run")] == [2, 4, 5, 6, 8, 10]
    first, second = sorted((tmp_path / "run" / "events").iterdir())
    assert (first, first.read_bytes()) == (event, cut)
    assert second.stat().st_size > 100


def test_damaged_norms_and_probes_are_named_with_a_remedy(tmp_path):
    images = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)

    def norms():
        functions = {"f": lambda variables, x: x * variables["a"]}
        return dataset_jacobian_norms(functions, {"a": jnp.float32(2)}, images, directory=tmp_path / "norms")["f"]

    wanted = norms()
    for name, remedy in (
        ("f.npy", "f.npy cannot be read.*: delete it"),
        ("content.json", "delete the whole directory"),
    ):
        file = tmp_path / "norms" / name
        data = file.read_bytes()
        for damaged in (b"", data[: len(data) // 2], data[:-4]):
            file.write_bytes(damaged)
            with pytest.raises(FileError, match=remedy):
                norms()
        file.write_bytes(data)
    (tmp_path / "norms" / "content.json").write_text("[]")
    with pytest.raises(FileError, match="delete the whole directory"):
        norms()
    (tmp_path / "norms" / "content.json").unlink()
    (tmp_path / "norms" / "f.npy").rename(tmp_path / "norms" / ".f.npy.partial")
    os.truncate(tmp_path / "norms" / ".f.npy.partial", 100)
    with pytest.raises(ValueError, match="unknown origin"):
        norms()
    (tmp_path / "norms" / ".f.npy.partial").unlink()
    assert norms().tobytes() == wanted.tobytes()
    write_probe(tmp_path / "probes", {"step": np.asarray(0), "x": NOISE})
    os.truncate(tmp_path / "probes" / "00000000.npz", 1000)
    with pytest.raises(FileError, match=r"00000000\.npz cannot be read.*: delete it to do without"):
        join_probes(tmp_path / "probes")


# ------------------------------------------------------------------------------------------- clocks


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    wanted = looped(tmp_path / "undisturbed")
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])

    def jumping(state, value):
        offset[0] = (-1) ** int(value) * 3e8  # ten years on, ten years back, from step to step
        return ADD(state, value)

    with pytest.raises(KeyboardInterrupt):
        looped(tmp_path / "run", train_step=jumping, kill_at=9)
    for path in (tmp_path / "run").rglob("*"):  # newer files look older
        os.utime(path, (real() - len(path.parts) * 1e6, real() - path.stat().st_size * 1e5))
    offset[0] = -6e8
    found = looped(tmp_path / "run", train_step=jumping)
    assert found == wanted
    offset[0] = -9e8
    assert looped(tmp_path / "run").state["sum"] == 385
    lines, others = logged(tmp_path / "run"), logged(tmp_path / "undisturbed")
    assert all(0 < line.pop("train/images_per_second") < 1e9 for line in (*lines, *others))
    assert lines == others
    # TensorBoard reads event files by their names: every start's file comes after those of the starts before it.
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [5, 10]
    assert len(list((tmp_path / "run" / "events").iterdir())) == 3


def test_event_files_are_numbered_by_starts(tmp_path, monkeypatch):
    names = []
    for now in (2e9, 1e9, 1e9, 3e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with Run(tmp_path / "run", {}) as run:
            run.start_log(0)
        (new,) = {path.name for path in (tmp_path / "run" / "events").iterdir()} - set(names)
        names.append(new)
    assert names == sorted(names)
    assert [int(name.split(".")[3]) for name in names] == [2_000_000_000, 2_000_000_001, 2_000_000_002, 3_000_000_000]


# ------------------------------------------------------------------------------------------- locks and signals


HOLD = """
import sys, time
from osrjax.run import Run
with Run(sys.argv[1], {"a": 1}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_held_directory_is_refused_and_a_killed_holder_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="in use by another process: wait for it or choose another"):
            Run(tmp_path / "run", {"a": 1})
        process.kill()
    assert (tmp_path / "run" / ".lock").exists()  # stale
    with Run(tmp_path / "run", {"a": 1}):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(ValueError, match=r"cannot be locked \(Function not implemented\): choose one"):
        Run(tmp_path / "run", {})


def test_a_second_signal_is_not_caught(tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with StopSignal() as stop:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
            assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_at_the_last_step_stops_the_run_before_its_evaluation(tmp_path, capsys):
    def signalled(state, value):
        if value == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return ADD(state, value)

    result = looped(tmp_path / "run", train_step=signalled)
    assert (result.exit_code, result.state["sum"]) == (143, 385)
    assert capsys.readouterr().out == "toy.py: stopped by SIGTERM after saving step 10; the same command goes on\n"
    result = looped(tmp_path / "run", train_step=signalled, kill_at=10)
    assert (result.exit_code, result.state["sum"]) == (0, 385)


def test_sigterm_while_compiling_and_while_evaluating(tmp_path):
    """A shell shows 143 for both: the process says so itself, or is ended by the signal."""
    run = tmp_path / "run"
    options = ("--smoke", "--resamples", 0, "--out", run)
    for seen in (lambda: (run / "provenance.json").exists(), lambda: (run / "scores.npz").exists()):
        process = start("train", *options)
        deadline = time.monotonic() + 200
        while not seen():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        code, output = finish(process)
        assert code in (143, -signal.SIGTERM), output
        assert "Traceback" not in output
        assert not (run / "results.json").exists()
    code, output = finish(start("train", *options))
    assert code == 0, output
    assert "going on from step 20" in output


# ------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ({3: np.nan}, {}, "set train: images have dtype float32, and image 3 is not finite: mend or leave out"),
        ({2: -np.inf, 3: np.nan}, {}, "image 2 is not finite"),
        ({}, {}, "images have dtype float32: convert them to uint8"),
        (None, {4: np.nan}, r"dtype float64 \(label 4 is not finite\): use one integer an image"),
        (None, {2: 7, 4: -1}, r"labels run from -1 to 7; labels\[2\]=7 is none of the 3 classes, which are 0 to 2"),
    ],
)
def test_data_that_is_no_number_is_refused_by_its_row(images, labels, message):
    values = np.zeros((6, 8, 8, 1), np.uint8 if images is None else np.float32)
    classes = np.arange(6) % 3
    if any(not np.isfinite(value) for value in labels.values()):
        classes = classes.astype(float)
    for row, value in (images or {}).items():
        values[row, 1, 2] = value
    for row, value in labels.items():
        classes[row] = value
    with pytest.raises(ValueError, match=message):
        checked_examples(values, classes, num_classes=3, where="set train")


@pytest.mark.parametrize("label", [10**13, 2**64 - 1])
def test_an_absurd_label_is_refused_before_its_classes_are_named(label, tmp_path, capsys):
    labels = np.arange(20, dtype=np.uint64) % 3
    arrays = {f"{part}_images": np.zeros((20, 8, 8, 1), np.uint8) for part in ("train", "test")}
    arrays |= {"train_labels": labels.copy(), "test_labels": labels}
    arrays["train_labels"][5] = label
    np.savez(tmp_path / "set.npz", **arrays)
    options = f"--data npz:{tmp_path}/set.npz --known 0 1 --unknown 2 --out {tmp_path}/run".split()
    assert load_script("train").main(options) == 2
    one_line(capsys.readouterr().err, "train.py", f"train_labels[5] is {label}: number the classes from 0")
    assert not (tmp_path / "run").exists()
