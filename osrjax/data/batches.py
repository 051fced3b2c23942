"""Which examples make the batch of a step: a pure function of the seed and the step.

Both streams are random access, ``batches[step]``: a resumed run asks for its step and gets what the interrupted one
would have got, with no iterator state to save. Examples are shuffled anew in every epoch, and a batch may hold the end
of one epoch and the start of the next.
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from osrjax.data.checks import chosen_rows

__all__ = ["Batches", "RandomAccess", "batch_indices", "drawn_rows", "stream"]

_ENDLESS = 2**62  # positions in a stream; grain needs a length


@runtime_checkable
class RandomAccess(Protocol):
    """A sequence of elements that are read when asked for."""

    def __len__(self) -> int:
        """Number of elements."""

    def __getitem__(self, row: int, /) -> Any:
        """One element."""


@runtime_checkable
class Batches(Protocol):
    """A random-access sequence of batches without an end: a grain MapDataset."""

    def to_iter_dataset(self) -> Any:
        """The batches from step 0 on, read ahead by threads; slice before it to start later."""

    def __getitem__(self, step: int, /) -> Any:
        """The batch of a step."""


def batch_indices(num_examples: int, batch_size: int, *, seed: int) -> Batches:
    """Row numbers of every batch, for data that is kept whole in device memory.

    Args:
      num_examples: number of rows to draw from, at least 1.
      batch_size: rows in a batch, over all hosts, at least 1.
      seed: seed of the shuffles, at least 0.

    Returns:
      `[step]` gives the int64 row numbers of that step's batch, of length batch_size; every run of
      num_examples numbers that starts at an epoch holds each row once.

    Raises:
      ValueError: no rows, an empty batch, or a seed below 0.

    Example:
      >>> batches = batch_indices(5, 5, seed=0)
      >>> sorted(batches[1000].tolist()), bool((batches[0] == batches[1]).all())
      ([0, 1, 2, 3, 4], False)
    """
    _check(num_examples=num_examples, batch_size=batch_size, seed=seed)
    import grain  # pulls in JAX and protobuf: not for who only reads arrays

    def batch(step: int) -> Int64[np.ndarray, "batch"]:
        return _rows(np.arange(batch_size) + step * batch_size, num_examples, seed)

    return grain.MapDataset.range(_ENDLESS // batch_size).map(batch)


def stream(
    sequence: RandomAccess,
    batch_size: int,
    *,
    seed: int,
    process_index: int,
    process_count: int,
    rows: Sequence[int] | Sequence[bool] | np.ndarray | None = None,
) -> Batches:
    """This host's part of every batch, decoded element by element, for data that does not fit in memory.

    The batch of a step over all hosts does not depend on their number: each holds a block of it, in the order of
    their numbers, so a run may resume on more or fewer of them.

    Args:
      sequence: random access to the elements, such as `osrjax.data.element_sequence`, or a NumPy array.
      batch_size: elements in a batch over all hosts; a multiple of process_count.
      seed: seed of the shuffles, at least 0, the same on every host.
      process_index: this host's number, 0 to process_count - 1.
      process_count: number of hosts.
      rows: the rows of the sequence to draw from, such as those of the known classes, or a boolean for each row; all
        if None.

    Returns:
      `[step]` gives the stacked elements of this host, batch_size / process_count of them.

    Raises:
      ValueError: a process that does not exist, a batch that is empty or cannot be shared equally, a seed below 0, or
        rows that do not exist or are no integers.
    """
    _check(num_examples=len(sequence), batch_size=batch_size, seed=seed)
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index!r} is out of range with process_count={process_count!r}")
    if batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size!r} is not divisible by process_count={process_count!r}: choose a multiple"
        )
    chosen = np.arange(len(sequence)) if rows is None else chosen_rows(rows, len(sequence), argument="rows")
    import grain

    share = batch_size // process_count

    def element(number: int) -> Any:
        # Sharding comes after shuffle and repeat: before them, every host would keep to a fixed part of the data.
        step, place = divmod(number, share)
        position = step * batch_size + process_index * share + place
        return sequence[int(chosen[_rows(np.array([position]), len(chosen), seed)[0]])]

    return grain.MapDataset.range(_ENDLESS // process_count).map(element).batch(share)


def drawn_rows(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Rows drawn without replacement, as evenly over the classes as their numbers allow.

    Args:
      labels: one integer a row.
      count: rows to draw, at least 1; all rows where there are no more.
      seed: seed of the draw, at least 0.

    Returns:
      Row numbers in ascending order.

    Example:
      >>> labels = np.array([0, 0, 0, 0, 1, 1, 2])
      >>> labels[drawn_rows(labels, 5, seed=0)].tolist()
      [0, 0, 1, 1, 2]
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    turns = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        turns[rows] = np.arange(len(rows))
    return np.sort(order[np.argsort(turns[order], kind="stable")[:count]])


def _check(*, num_examples: int, batch_size: int, seed: int) -> None:
    for name, value, least in (("num_examples", num_examples, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if not value >= least:
            raise ValueError(f"{name}={value!r} is below {least}: give a larger number")


def _rows(positions: Int64[np.ndarray, "batch"], num_examples: int, seed: int) -> Int64[np.ndarray, "batch"]:
    """Row numbers at positions of the endless shuffled order.

    grain's own shuffle maps one number at a time, which took 3 ms of CPU for a batch of 128 against 0.03 ms
    here, and its seeds s and s + 1 give the same orders one epoch apart.
    """
    epochs, places = np.divmod(positions, num_examples)
    rows = np.empty_like(positions)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        in_epoch = epochs == epoch
        rows[in_epoch] = _permutation(num_examples, seed, epoch)[places[in_epoch]]
    return rows


@functools.lru_cache(maxsize=4)  # a batch looks at the current epoch and sometimes the next
def _permutation(num_examples: int, seed: int, epoch: int) -> Int64[np.ndarray, "batch"]:
    return np.random.default_rng([seed, epoch]).permutation(num_examples)
