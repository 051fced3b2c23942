"""What the input-Jacobian norm of a unit embedding is made of: directions, singular values, normalisation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from osrjax.jacobian.exact import input_jacobian
from osrjax.jacobian.passes import Mode, floats, norm, real_outputs

__all__ = ["JacobianParts", "input_jacobian_parts"]


class JacobianParts(NamedTuple):
    r"""Parts of the input Jacobian J of a unit embedding :math:`f = \hat f / \lVert \hat f \rVert`, one example.

    Attributes:
      norm: :math:`\lVert J \rVert_F`.
      towards: :math:`\lVert u^T J \rVert_2` for the unit tangent u from f towards the nearest prototype.
      across: norm of all other directions, so that ``norm ** 2 == towards ** 2 + across ** 2``.
      singular_values: of J, the largest first.
      cosine: of f and the nearest prototype.
      raw_length: :math:`\lVert \hat f \rVert`.
      raw_norm: :math:`\lVert \hat J \rVert_F` of the embedding before normalisation.
      radial: :math:`\lVert f^T \hat J \rVert_2`, which normalisation removes:
        ``norm ** 2 == (raw_norm ** 2 - radial ** 2) / raw_length ** 2``.
    """

    norm: Float[Array, "*batch"]
    towards: Float[Array, "*batch"]
    across: Float[Array, "*batch"]
    singular_values: Float[Array, "*batch values"]
    cosine: Float[Array, "*batch"]
    raw_length: Float[Array, "*batch"]
    raw_norm: Float[Array, "*batch"]
    radial: Float[Array, "*batch"]


def input_jacobian_parts(
    fn: Callable[[Array], Array],
    x: Num[Array, "*inputs"],
    prototypes: Float[Array, "classes features"],
    *,
    mode: Mode = "auto",
) -> JacobianParts:
    r"""Parts of the input-Jacobian norm of one example's unit embedding.

    .. math:: J = (I - f f^T) \hat J / \lVert \hat f \rVert, \qquad
              u = (w - (w^T f) f) / \lVert w - (w^T f) f \rVert

    with w the unit prototype of the largest cosine. Moving x changes the angle between f and w by :math:`u^T J` alone.
    Where all D - 1 directions of the sphere are alike, ``towards ** 2`` is ``norm ** 2 / (D - 1)``.

    *Cost*: one exact Jacobian of the raw embedding, all of its passes at once, with the whole matrix in memory
    (features x inputs); and its singular values.

    Args:
      fn: maps one example to its embedding before normalisation, ``[features]``; any framework.
      x: floating-point example of any shape.
      prototypes: one row per class, of any length above 0: weights of a cosine head, or class means.
      mode: of differentiation, as in :func:`osrjax.jacobian.input_jacobian_norm`.

    Returns:
      The parts; nan for an embedding of length 0. Where f is the prototype or its opposite there is no direction
      towards it, and ``towards`` is 0.

    Raises:
      ValueError: an integer example, outputs that are not one vector of floats, or prototypes of other features.

    Example:
      >>> import jax.numpy as jnp
      >>> scales = jnp.array([1.0, 2.0, 3.0])
      >>> parts = input_jacobian_parts(lambda x: scales * x, jnp.array([2.0, 0.0, 0.0]), jnp.array([[1.0, 1.0, 0.0]]))
      >>> print(f"{parts.towards:.3f} {parts.across:.3f} {parts.radial:.3f}")  # f = (1, 0, 0), u = (0, 1, 0)
      1.000 1.500 1.000
      >>> print(parts.singular_values)
      [1.5 1.  0. ]
    """
    x = floats("x", x)
    outputs = real_outputs(fn, x)
    if len(outputs.shape) != 1 or prototypes.ndim != 2 or prototypes.shape[1:] != outputs.shape:
        raise ValueError(
            f"fn gives shape {outputs.shape} and prototypes have {prototypes.shape}: give [features] and"
            " [classes, features]"
        )
    with jax.default_matmul_precision("highest"):
        raw = fn(x)
        raw_jacobian = input_jacobian(fn, x, mode=mode).reshape(raw.size, -1)
        length = norm(raw)
        unit = raw / length
        radial = unit @ raw_jacobian
        jacobian = (raw_jacobian - jnp.outer(unit, radial)) / length
        rows = prototypes.astype(raw.dtype)
        cosines = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True)) @ unit
        nearest = jnp.argmax(cosines)
        direction = rows[nearest] / norm(rows[nearest]) - cosines[nearest] * unit
        size = norm(direction)
        # Below this, rounding decides where the direction points.
        direction = jnp.where(size > 8 * jnp.finfo(raw.dtype).eps, direction / jnp.where(size > 0, size, 1), 0)
        row = direction @ jacobian
        return JacobianParts(
            norm=norm(jacobian),
            towards=norm(row),
            across=norm(jacobian - jnp.outer(direction, row)),
            singular_values=jnp.linalg.svd(jacobian, compute_uv=False),
            cosine=cosines[nearest],
            raw_length=length,
            raw_norm=norm(raw_jacobian),
            radial=norm(radial),
        )
