"""The step loop with a toy step, whose state after every step is known by hand."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_loop import ADD, logged, looped

from osrjax.data import Examples, batch_indices
from osrjax.devices import sharding
from osrjax.train.batches import gather_batch, make_inputs


def test_every_step_is_taken_logged_and_saved_when_due(tmp_path):
    result = looped(tmp_path / "run")
    assert (result.exit_code, result.state["sum"]) == (0, 385)
    # The accuracy of the toy falls, so the checkpoint of step 5 stays the best.
    assert result.best_step == 5
    lines = logged(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 5, 6, 8, 10]
    for line in lines:
        assert (line["train/loss"], line["train/twice"]) == (line["step"] ** 2, 2 * line["step"] ** 2)
        assert line["train/images_per_second"] > 0
    assert {line["step"]: line.get("validation/accuracy") for line in lines if line["step"] % 5 == 0} == {
        5: pytest.approx(1 / 55),
        10: pytest.approx(1 / 385),
    }
    assert len(json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]) == 1


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, capsys):
    probed = []

    def probe(state, step):
        probed.append((step, float(state["sum"])))

    with pytest.raises(KeyboardInterrupt):
        looped(tmp_path / "run", kill_at=9, probe=probe, probe_every=4)
    assert [line["step"] for line in logged(tmp_path / "run")] == [2, 4, 5, 6, 8]
    result = looped(tmp_path / "run", probe=probe, probe_every=4)
    assert (result.exit_code, result.state["sum"]) == (0, 385)
    assert "going on from step 5" in capsys.readouterr().out
    # What the killed run logged after step 5 is replaced.
    assert [line["step"] for line in logged(tmp_path / "run")] == [2, 4, 5, 6, 8, 10]
    assert probed == [(0, 0), (4, 30), (8, 204), (8, 204), (10, 385)]
    # A run whose last step is stored takes none, and probes nothing.
    assert looped(tmp_path / "run", kill_at=11, probe=probe, probe_every=4).state["sum"] == 385
    assert len(probed) == 5


def test_a_signal_saves_the_step_and_stops(tmp_path, capsys):
    def signalled(state, value):
        if value == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return ADD(state, value)

    result = looped(tmp_path / "run", train_step=signalled)
    assert (result.exit_code, result.state["sum"]) == (143, 14)
    expected = "toy.py: stopped by SIGTERM after saving step 3; the same command goes on\n"
    assert capsys.readouterr().out == expected
    assert looped(tmp_path / "run").state["sum"] == 385


def test_a_window_of_steps_is_profiled_also_of_a_run_that_goes_on(tmp_path):
    def traces(run):
        return list((tmp_path / run / "profile").rglob("*.xplane.pb"))

    assert looped(tmp_path / "run", profile_steps=(2, 3)).state["sum"] == 385
    (trace,) = traces("run")
    assert trace.stat().st_size > 1000
    with pytest.raises(KeyboardInterrupt):
        looped(tmp_path / "killed", kill_at=7)
    assert looped(tmp_path / "killed", profile_steps=(4, 8)).state["sum"] == 385  # steps 6 to 8 are left
    assert len(traces("killed")) == 1
    looped(tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()


@pytest.mark.parametrize(
    ("bad_step", "message"),
    [
        (3, "non-finite twice at step 3: stopped; none was saved"),
        (7, "step 7: stopped; the checkpoint of step 5 is good"),
    ],
)
def test_a_non_finite_metric_stops_the_run_naming_the_step(bad_step, message, tmp_path, capsys):
    def broken(state, value):
        state, metrics = ADD(state, value)
        return state, metrics | {"twice": jnp.inf} if value == bad_step**2 else metrics

    result = looped(tmp_path / "run", train_step=broken)
    assert result.exit_code == 1
    error = capsys.readouterr().err
    assert error.startswith("toy.py: non-finite twice")
    assert error.endswith(f"{message}. Lower nothing\n")
    assert all(line["step"] < bad_step for line in logged(tmp_path / "run"))


def test_a_probe_that_finds_trouble_stops_the_run_before_it_is_saved(tmp_path, capsys):
    def probe(state, step):
        return "non-finite norms" if step == 5 else None

    assert looped(tmp_path / "run", probe=probe, probe_every=5).exit_code == 1
    assert capsys.readouterr().err == "toy.py: non-finite norms: stopped; none was saved. Lower nothing\n"


def test_a_state_that_gives_no_numbers_stops_the_run_and_is_not_saved(tmp_path, capsys):
    """The loss of the last step is that of the parameters before it."""

    def validate(state):
        if float(state["sum"]) == 385:
            raise FloatingPointError("non-finite logits of 2 of 4 images")
        return 0.5

    result = looped(tmp_path / "run", validate=validate)
    assert (result.exit_code, result.best_step) == (1, 5)
    words = "toy.py: non-finite logits of 2 of 4 images at step 10: stopped; the checkpoint of step 5 is good."
    assert capsys.readouterr().err.endswith(f"{words} Lower nothing\n")


def test_a_run_without_a_readable_checkpoint_takes_no_step(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"toy": true}')
    (tmp_path / "run" / "damaged-5").mkdir()
    checkpoint = tmp_path / "run" / "checkpoints" / "5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_CHECKPOINT_METADATA").write_text("{cut")
    result = looped(tmp_path / "run", kill_at=1)
    assert (result.exit_code, result.best_step) == (2, None)
    assert capsys.readouterr().err.startswith("toy.py: no readable checkpoint")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0 is below 1"),
        ({"log_every": 0}, "log_every=0 is below 1"),
        ({"save_every": -1}, "save_every=-1 is below 1"),
        ({"probe": lambda state, step: None}, "probe_every=0 is below 1"),
    ],
)
def test_bad_numbers_of_steps(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        looped(tmp_path / "run", **options)


def test_streamed_and_gathered_batches_are_the_rows_of_the_step(rng):
    images = rng.integers(0, 256, (10, 2, 2, 1)).astype(np.uint8)
    examples = Examples(images, np.arange(10, dtype=np.int32))
    mesh = sharding.data_mesh(4)
    gather = jax.jit(lambda stored, indices: gather_batch(stored, indices, mesh=mesh))
    rows = batch_indices(10, 8, seed=3)
    for streamed in (False, True):
        inputs = make_inputs(examples, batch_size=8, seed=3, mesh=mesh, streamed=streamed)
        for start in (0, 5):
            for step, given in zip(range(start, start + 3), inputs(start), strict=False):
                batch = gather(*given)
                assert np.array_equal(batch.labels, rows[step])
                assert np.array_equal(batch.images, images[rows[step]])
                assert batch.images.sharding.is_equivalent_to(sharding.batch_sharding(mesh), ndim=4)
