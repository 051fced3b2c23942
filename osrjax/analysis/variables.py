"""Variables of any framework: which of their leaves are arrays, and how they are told from others.

Modules of Equinox and of Flax NNX are trees that hold activations, flags and keys beside their parameters.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osrjax.models.outputs import BatchFunction, PyTree


def arrays_of(variables: PyTree) -> PyTree:
    """The tree with its arrays alone, None in place of all other leaves."""
    return jax.tree.map(lambda leaf: leaf if _is_array(leaf) else None, variables)


def on_arrays(function: BatchFunction, variables: PyTree) -> BatchFunction:
    """The function of the arrays alone; all other leaves are those of ``variables``."""
    return lambda arrays, images: function(joined(variables, arrays), images)


def joined(variables: PyTree, arrays: PyTree) -> PyTree:
    """The tree with other arrays."""
    return jax.tree.map(lambda leaf, array: leaf if array is None else array, variables, arrays)


def leaf_bytes(leaf: Any) -> bytes:
    """What tells a leaf from others, the same in every process: type, shape and content."""
    if not _is_array(leaf):
        return re.sub(" at 0x[0-9a-f]+", "", repr(leaf)).encode()
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype).encode() + leaf_bytes(jax.random.key_data(leaf))
    array = np.ascontiguousarray(leaf)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")
