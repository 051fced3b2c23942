"""What every room asks of an array: integers for labels and rows, float32 or better for what is computed.

A dtype is known while code is traced, so these checks hold in compiled code too; values are looked at on the host.
"""

from typing import Any

import numpy as np

__all__ = ["at_least_float32", "check_integers", "class_positions"]


def at_least_float32(values: Any) -> Any:
    """Numbers in float32, or float64 where they are that.

    Args:
      values: an array of NumPy or of JAX, of any dtype.

    Returns:
      An array of the same kind; itself where nothing is to be done.

    Example:
      >>> at_least_float32(np.array([0.5], np.float16)).dtype, at_least_float32(np.array([0.5])).dtype
      (dtype('float32'), dtype('float64'))
    """
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def check_integers(name: str, values: Any) -> None:
    """Refuses floats, and booleans, which may be a mask, where labels, positions or rows are meant.

    Args:
      name: of the argument.
      values: an array of NumPy or of JAX.

    Raises:
      ValueError: another dtype than integers.
    """
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} has dtype {values.dtype}: give whole numbers in an integer dtype")


def class_positions(name: str, values: Any, *, size: int | None = None, classes: int | None = None) -> np.ndarray:
    """Labels or predictions as int64, whatever integers they are.

    Args:
      name: of the argument.
      values: one class position an example.
      size: how many examples there are; None for any number.
      classes: number of classes; None for any number.

    Returns:
      One-dimensional int64.

    Raises:
      ValueError: another shape, no example, another dtype than integers, or a position outside [0, classes).

    Example:
      >>> class_positions("labels", np.array([0, 255], np.uint8)) + 1
      array([  1, 256])
    """
    positions = np.asarray(values)
    if positions.ndim != 1 or positions.size == 0 or size not in (None, positions.size):
        expected = "(examples,)" if size is None else f"({size},)"
        raise ValueError(f"{name} has shape {positions.shape}, not {expected}: one class per example")
    check_integers(name, positions)
    positions = positions.astype(np.int64)
    if positions.min() < 0:
        raise ValueError(f"{name} holds {positions.min()}: give positions in known_classes, from 0")
    if classes is not None and positions.max() >= classes:
        raise ValueError(f"{name} holds {positions.max()}: give positions in [0, {classes})")
    return positions
