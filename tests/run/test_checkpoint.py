"""Checkpoints: bit for bit, the right ones kept, and what happens to damaged ones."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from osrjax.devices import sharding
from osrjax.run.checkpoint import Checkpoints, UnreadableCheckpointsError

# A failed read leaves asyncio tasks of Orbax behind, which complain when they are collected, whenever that is.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine 'Store:RuntimeWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def collected():
    """Collects what these tests leave behind while its complaints are expected, not during another module's test."""
    yield
    gc.collect()


def state_of(value):
    return {
        "w": jnp.full((40, 30), value, jnp.float32),
        "deep": (jnp.int32(value), jnp.array([np.nan, -0.0])),
    }


LIKE = state_of(0)


def assert_same_bits(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_latest_and_best_are_kept_and_read_back_bit_for_bit(tmp_path):
    with Checkpoints(tmp_path / "c", keep_latest=2) as checkpoints:
        assert checkpoints.restore_latest(LIKE) is None
        for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.6), (4, 0.7), (5, 0.8)):
            checkpoints.save(step, state_of(step), accuracy=accuracy)
        checkpoints.save(5, state_of(-1), accuracy=1.0)  # stored already: left as it is
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.best_step() == 2
    with Checkpoints(tmp_path / "c", keep_latest=2) as checkpoints:  # another process would see the same
        restored = checkpoints.restore_latest(LIKE)
        assert restored.step == 5
        assert not restored.reports
        assert_same_bits(restored.state, state_of(5))
        assert_same_bits(checkpoints.restore(2, LIKE), state_of(2))
        assert checkpoints.best_step() == 2


def _flip_bytes(directory):
    for path in directory.rglob("d/*"):
        data = bytearray(path.read_bytes())
        for i in range(len(data) // 3, len(data) // 3 + 8):
            data[i] ^= 0x55
        path.write_bytes(bytes(data))


def _truncate_everything(directory):
    for path in directory.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "bytes flipped": _flip_bytes,
    "files truncated": _truncate_everything,
    "data deleted": lambda directory: shutil.rmtree(directory / "state"),
    "metadata deleted": lambda directory: (directory / "_CHECKPOINT_METADATA").unlink(),
    "metadata emptied": lambda directory: (directory / "_CHECKPOINT_METADATA").write_bytes(b""),
    "values changed": None,  # readable, with other values than were written: only the checksum can tell
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(tmp_path, kind):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(10, state_of(10), accuracy=0.1)
        checkpoints.save(20, state_of(20), accuracy=0.2)
        checkpoints.wait()
    if DAMAGE[kind] is None:
        with Checkpoints(tmp_path / "other") as others:
            others.save(20, state_of(21))
            others.wait()
        shutil.rmtree(tmp_path / "c" / "20" / "state")
        shutil.copytree(tmp_path / "other" / "20" / "state", tmp_path / "c" / "20" / "state")
    else:
        DAMAGE[kind](tmp_path / "c" / "20")
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore_latest(LIKE)
        assert restored.step == 10
        assert_same_bits(restored.state, state_of(10))
        assert any("step 20 is damaged" in line for line in restored.reports), restored.reports
        assert (tmp_path / "damaged-20").exists()  # nothing is lost
        checkpoints.save(20, state_of(20), accuracy=0.3)  # the run comes by again
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(20, LIKE), state_of(20))


def test_nothing_readable_is_an_error_that_deletes_nothing(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.wait()
    _flip_bytes(tmp_path / "c" / "1")
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        pytest.raises(UnreadableCheckpointsError, match="no readable checkpoint"),
    ):
        checkpoints.restore_latest(LIKE)
    assert (tmp_path / "c" / "1").exists()
    _truncate_everything(tmp_path / "c" / "1")  # now it cannot even be listed, and is moved aside
    for _ in range(2):  # a second start does not quietly begin anew
        with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UnreadableCheckpointsError, match="set aside"):
            checkpoints.restore_latest(LIKE)
    assert (tmp_path / "damaged-1").exists()


def test_the_leavings_of_a_killed_save_are_ignored(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.wait()
    shutil.copytree(tmp_path / "c" / "1", tmp_path / "c" / "2.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_latest(LIKE).step == 1


def test_a_sharded_state_comes_back_on_another_number_of_devices(tmp_path):
    spread = NamedSharding(sharding.data_mesh(4), P("data"))
    values = jnp.arange(12.0).reshape(4, 3)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"x": jax.device_put(values, spread)})
        checkpoints.wait()
        two = NamedSharding(sharding.data_mesh(2), P("data"))
        found = checkpoints.restore(1, {"x": jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=two)})
    assert found["x"].sharding == two
    np.testing.assert_array_equal(found["x"], values)


def test_keep_latest_is_checked(tmp_path):
    with pytest.raises(ValueError, match="keep_latest=0"):
        Checkpoints(tmp_path, keep_latest=0)
