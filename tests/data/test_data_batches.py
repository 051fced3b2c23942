import numpy as np
import pytest

from osrjax.data import batch_indices, drawn_rows, stream


def test_every_epoch_holds_each_row_once_in_a_new_order():
    batches = batch_indices(12, 5, seed=0)
    flat = np.concatenate([batches[step] for step in range(24)])
    epochs = flat.reshape(10, 12)
    assert (np.sort(epochs, axis=1) == np.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 10


def test_a_batch_depends_on_step_and_seed_alone():
    first, again, other = (batch_indices(100, 7, seed=s) for s in (0, 0, 1))
    late = first[10_000_000]  # no walk through the steps before
    assert np.array_equal(late, again[10_000_000])
    assert np.array_equal(first[3], again[3])
    assert not np.array_equal(first[3], other[3])
    # No seed repeats the order of its neighbour an epoch later.
    epochs = [batch_indices(100, 100, seed=s) for s in (0, 1)]
    assert not np.array_equal(epochs[0][1], epochs[1][0])


def test_a_batch_may_be_larger_than_an_epoch():
    rows = batch_indices(3, 10, seed=0)[0]
    assert np.array_equal(np.sort(rows[:9]), np.repeat(np.arange(3), 3))


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_hosts_share_each_batch_whatever_their_number(hosts, rng):
    images = rng.integers(0, 256, (21, 2, 2, 1)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(21)
    numbers = batch_indices(21, 8, seed=4)
    parts = [stream(images, 8, seed=4, process_index=i, process_count=hosts) for i in range(hosts)]
    for step in (0, 2, 5, 40):
        local = [part[step] for part in parts]
        assert all(part.shape == (8 // hosts, 2, 2, 1) for part in local)
        seen = np.concatenate(local)[:, 0, 0, 0]
        assert np.array_equal(seen, numbers[step])  # in this order, whatever the number of hosts
        assert np.array_equal(np.concatenate(local), images[numbers[step]])


def test_stream_of_chosen_rows_as_an_iterator():
    elements = [{"image": np.full((2, 2), i, np.uint8), "label": i} for i in range(10)]
    rows = [1, 4, 7]
    batches = stream(elements, 3, seed=0, process_index=0, process_count=1, rows=rows)
    iterator = iter(batches.to_iter_dataset())
    for step in range(4):
        batch = next(iterator)
        assert sorted(batch["label"].tolist()) == rows
        assert np.array_equal(batch["image"], batches[step]["image"])


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(10) >= 5,
        [False] * 5 + [True] * 5,
        np.arange(5, 10, dtype=np.uint8),
        np.arange(5, 10, dtype=np.uint64),
        range(5, 10),
    ],
)
def test_rows_are_numbers_or_a_mask(rows):
    batches = stream(np.arange(100, 110), 5, seed=0, process_index=0, process_count=1, rows=rows)
    assert [sorted(batches[step].tolist()) for step in range(2)] == [[105, 106, 107, 108, 109]] * 2


def test_drawn_rows_are_spread_over_the_classes(rng):
    labels = rng.permutation(np.repeat([2, 5, 9], [50, 3, 20]))
    rows = drawn_rows(labels, 20, seed=0)
    assert (np.diff(rows) > 0).all()
    counts = np.bincount(labels[rows], minlength=10)
    assert counts[5] == 3  # all there are
    assert sorted(counts[[2, 9]]) == [8, 9]
    assert np.array_equal(rows, drawn_rows(labels, 20, seed=0))
    assert not np.array_equal(rows, drawn_rows(labels, 20, seed=1))
    assert np.array_equal(drawn_rows(labels, 100, seed=0), np.arange(73))


def streamed(**changes):
    return stream(**{"sequence": [1, 2], "batch_size": 2, "seed": 0, "process_index": 0, "process_count": 1} | changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: stream([1, 2], 4, seed=0, process_index=2, process_count=2),
            "process_index=2 is out of range",
        ),
        (
            lambda: stream([1, 2], 3, seed=0, process_index=0, process_count=2),
            "batch_size=3 is not divisible by process_count=2",
        ),
        (lambda: batch_indices(0, 4, seed=0), "num_examples=0 is below 1"),
        (lambda: batch_indices(4, 0, seed=0), "batch_size=0 is below 1"),
        (lambda: batch_indices(4, 4, seed=-1), "seed=-1 is below 0"),
        (lambda: streamed(batch_size=0), "batch_size=0 is below 1"),
        (lambda: streamed(sequence=[]), "num_examples=0 is below 1"),
        (lambda: streamed(rows=[]), r"rows has shape \(0,\): give at least one row"),
        (lambda: streamed(rows=np.array([[0, 1]])), r"rows has shape \(1, 2\)"),
        (lambda: streamed(rows=np.array([0.0, 1.0])), "rows has dtype float64: give row numbers as integers"),
        (
            lambda: streamed(rows=np.array([True])),
            "rows is a mask of 1 rows, 1 of them true: give one boolean for each",
        ),
        (lambda: streamed(rows=np.array([False, False])), "rows is a mask of 2 rows, 0 of them true"),
        (lambda: streamed(rows=np.array([0, -1])), "rows runs from -1 to 0: use rows 0 to 1"),
        (lambda: streamed(rows=np.array([0, 2])), "rows runs from 0 to 2: use rows 0 to 1"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
