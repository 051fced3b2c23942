"""Which examples make the batch of a step: a pure function of the seed and the step.

Both streams are random access, ``batches[step]``: a resumed run asks for its step and gets what the interrupted one
would have got, with no iterator state to save. Examples are shuffled anew in every epoch, and a batch may hold the end
of one epoch and the start of the next.
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int64

__all__ = ["Batches", "RandomAccess", "batch_indices", "stream"]

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

    Example:
      >>> batches = batch_indices(5, 5, seed=0)
      >>> sorted(batches[1000].tolist()), bool((batches[0] == batches[1]).all())
      ([0, 1, 2, 3, 4], False)
    """
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
    rows: Sequence[int] | Int[np.ndarray, "batch"] | None = None,
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
      rows: the rows of the sequence to draw from, such as those of the known classes; all if None.

    Returns:
      `[step]` gives the stacked elements of this host, batch_size / process_count of them.

    Raises:
      ValueError: a process that does not exist, or a batch that cannot be shared equally.
    """
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index!r} is out of range with process_count={process_count!r}")
    if batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size!r} is not divisible by process_count={process_count!r}: choose a multiple"
        )
    import grain

    chosen = np.arange(len(sequence)) if rows is None else np.asarray(rows)
    share = batch_size // process_count

    def element(number: int) -> Any:
        # Sharding comes after shuffle and repeat: before them, every host would keep to a fixed part of the data.
        step, place = divmod(number, share)
        position = step * batch_size + process_index * share + place
        return sequence[int(chosen[_rows(np.array([position]), len(chosen), seed)[0]])]

    return grain.MapDataset.range(_ENDLESS // process_count).map(element).batch(share)


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
