"""Parts of input-Jacobian norms for the images of a trained network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from osrjax.devices.cpu import compiler_options
from osrjax.jacobian.parts import input_jacobian_parts
from osrjax.models.outputs import BatchFunction, PyTree
from osrjax.train.apply import check_finite

__all__ = ["image_jacobian_parts"]


def image_jacobian_parts(
    function: BatchFunction,
    variables: PyTree,
    images: Float[np.ndarray, "images height width channels"],
    prototypes: Float[np.ndarray, "classes features"],
    *,
    batch_size: int = 10,
) -> dict[str, np.ndarray]:
    """Every part of :func:`osrjax.jacobian.input_jacobian_parts` for each image.

    *Cost*: one exact Jacobian an image; memory for ``batch_size`` of them and of all their passes.

    Args:
      function: ``(variables, images) -> embedding`` before normalisation.
      variables: of the network.
      images: floats in [-1, 1].
      prototypes: as there.
      batch_size: images a call, at least 1.

    Returns:
      Host arrays by the names of :class:`osrjax.jacobian.JacobianParts`, one row per image.

    Raises:
      ValueError: a part is not finite.
    """
    rows = jnp.asarray(prototypes, jnp.float32)

    def parts(variables: PyTree, image: jax.Array) -> dict[str, jax.Array]:
        return input_jacobian_parts(lambda x: function(variables, x[None])[0], image, rows)._asdict()

    compiled = partial(jax.jit(jax.vmap(parts, (None, 0)), compiler_options=compiler_options()), variables)
    padded = np.concatenate([images, np.repeat(images[:1], -len(images) % batch_size, axis=0)])
    found = [jax.device_get(compiled(batch)) for batch in padded.reshape(-1, batch_size, *images.shape[1:])]
    joined = {name: np.concatenate([part[name] for part in found])[: len(images)] for name in found[0]}
    check_finite(joined)
    return joined
