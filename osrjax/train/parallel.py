"""A batch spread over devices with one reduction of gradients a step, however often the objective runs the network.

Left to the compiler, the gradient of each pass through a network (of clean and of masked images, of images and of
their rotations) may be summed over the devices before the passes are added: XLA for CPU does so. Here each device has
a copy of the parameters of its own, along a leading axis that is spread over the devices. The network runs on each
device with its copy and its rows of the batch, the gradients of a copy add up where they are, and the sum over the
copies, which is the transpose of copying, is the one all-reduce, in the parameters' dtype whatever the compute dtype.
What is not the network, such as a loss that compares the rows of all devices, stays with the compiler.

::

    mesh = sharding.data_mesh()  # of all devices, of all processes; losses and batch norms see the global batch
    objective = data_parallel(method.make_objective, network, mesh)
    step = jax.jit(make_train_step(objective, method.optimizer), donate_argnums=0)
    state = sharding.spread(state, sharding.replicated(mesh))
    state, metrics = step(state, sharding.spread(batch, sharding.batch_sharding(mesh)), key, method.hyper)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from osrjax.devices import sharding
from osrjax.train.objective import Batch, Hyper, Objective, ObjectiveAux

__all__ = ["data_parallel"]

from osrjax.train.objective import PyTree


def data_parallel(
    make_objective: Callable[[Any], Objective],
    network: Any,
    mesh: jax.sharding.Mesh,
) -> Objective:
    """Returns the objective of a network for batches over a mesh, whose gradient is reduced over the devices once.

    It gives the numbers of ``make_objective(network)``, batch norm by the global batch among them, up to the order of
    sums; for a mesh of one device it is that. *Cost*: one all-reduce of the gradient, as many bytes as the
    parameters have, whatever the batch. Batch norm has one all-reduce a layer and pass, forward and again backward, and
    the losses have theirs, as without it; so are memory and arithmetic.

    Sweeps (:mod:`osrjax.train.sweep`) take the plain objective, and leave batches that are spread to the compiler.

    Args:
      make_objective: from a network to an objective, such as
        ``partial(make_classify_objective, class_loss=..., augmentation=...)``. What it is given stands for the
        network: it has ``apply``, ``init_with_output`` and ``head`` and is no Flax module. The objective uses its
        ``params`` through ``apply`` alone, on numbers of images that the devices share evenly.
      network: to train. Its batch norms average over "data" inside a ``jax.shard_map``, as those of
        :mod:`osrjax.models` do: JAX refuses others, whose running statistics would differ between devices.
      mesh: with the axis "data" alone (:func:`osrjax.devices.sharding.data_mesh`); of all processes.

    Returns:
      The objective, of parameters as they are without it.

    Raises:
      ValueError: a mesh with other axes; from JAX, when called: other batch norms, or images that cannot be shared.
    """
    if mesh.axis_names != ("data",):
        raise ValueError(f'{mesh.axis_names=} is not ("data",): give a mesh of osrjax.devices.sharding.data_mesh')
    if mesh.size == 1:
        return make_objective(network)
    with_copies = make_objective(_OnEachDevice(network, mesh))
    one_each = sharding.batch_sharding(mesh)

    def copies(leaf: Array) -> Array:
        return jax.lax.with_sharding_constraint(jnp.broadcast_to(leaf, (mesh.size, *leaf.shape)), one_each)

    def objective(params: PyTree, stats: PyTree, batch: Batch, key: Array, hyper: Hyper) -> tuple[Array, ObjectiveAux]:
        return with_copies(jax.tree.map(copies, params), stats, batch, key, hyper)

    return objective


class _OnEachDevice(NamedTuple):
    """A network whose parameters have a copy for each device in front, and which each device applies to its rows."""

    network: Any
    mesh: jax.sharding.Mesh

    @property
    def head(self) -> str:
        return self.network.head

    def init_with_output(self, key: Array, images: Array, *, train: bool) -> tuple[Any, Any]:
        return self.network.init_with_output(key, images, train=train)

    def apply(self, variables: Any, images: Array, *, train: bool, mutable: Any = False, taps: Any = None) -> Any:
        rows, same = P("data"), P()

        def forward(copies: PyTree, stats: PyTree, images: Array, taps: Any) -> Any:
            own = {"params": jax.tree.map(partial(jnp.squeeze, axis=0), copies), **stats}
            return self.network.apply(own, images, train=train, mutable=mutable, taps=taps)

        spread = jax.shard_map(
            forward,
            mesh=self.mesh,
            in_specs=(rows, same, rows, rows),
            out_specs=(rows, same) if mutable else rows,
        )
        stats = {name: tree for name, tree in variables.items() if name != "params"}
        return spread(variables["params"], stats, images, taps)
