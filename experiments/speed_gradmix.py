"""Our side of `speed.py --what gradmix`: a training step on given views, its arithmetic and that of a forward pass."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from osrjax.attribution.maps import last_layers
from osrjax.augment.pixels import to_float
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, GradMix
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, zero_taps
from osrjax.train.objective import Batch
from osrjax.train.optimizers import make_adam
from osrjax.train.step import init_state, make_train_step

HYPER = {
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-3,  # constant, as the peers'
    "schedule_steps": 1.0,
    "temperature": 0.05,
    "attribution_temperature": 0.05,
    "supcon_weight": 1.0,  # the peers leave weights of 1 out
    "ssl_weight": 1.0,
    "smallest_kept": 0.5,
    "largest_kept": 0.9,
}


class Side(NamedTuple):
    """A computation to time.

    Attributes:
        call: does it once and waits for the end.
        flops: operations of the compiled program, as XLA counts them.
    """

    call: Callable[[], float]
    flops: float


def training_step(
    network: str, batch: int, image_shape: tuple[int, int, int], classes: int, options: dict[str, str | bool]
) -> Side:
    """Our GradMix training step: calling it makes one and gives its loss."""
    model = ContrastiveNetwork(NETWORKS[network]())
    stages = len(zero_taps(model, image_shape, batch))
    mix = GradMix(Attribution(last_layers(stages)))
    objective, optimizer = make_contrastive_objective(model, view, mix=mix), make_adam()
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}
    init_key, image_key, step_key = jax.random.split(jax.random.key(0), 3)
    state = jax.jit(lambda key: init_state(key, model, optimizer, hyper, image_shape=image_shape))(init_key)
    images = jax.random.randint(image_key, (batch, *image_shape), 0, 256, jnp.uint8)
    data = Batch(images, jnp.arange(batch, dtype=jnp.int32) % classes)
    jitted = jax.jit(make_train_step(objective, optimizer), donate_argnums=0, compiler_options=options)
    compiled = jitted.lower(state, data, step_key, hyper).compile()

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, data, step_key, hyper)
        return float(metrics["loss"])

    return Side(step, _flops(compiled))


def view(key: jax.Array, images: jax.Array) -> jax.Array:
    """The images in another contrast: no augmentation to speak of, but two views that differ."""
    return jax.random.uniform(key, minval=0.5, maxval=1.0) * to_float(images)


def forward_flops(network: str, batch: int, image_shape: tuple[int, int, int], options: dict[str, str | bool]) -> float:
    """Operations of one forward pass of both views of a batch in train mode, compiled and never run."""
    model = ContrastiveNetwork(NETWORKS[network]())
    views = jax.ShapeDtypeStruct((2 * batch, *image_shape), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), views)

    def forward(variables, views):
        return model.apply(variables, views, train=True, mutable="batch_stats")

    return _flops(jax.jit(forward, compiler_options=options).lower(variables, views).compile())


def _flops(compiled):
    cost = compiled.cost_analysis()
    assert cost is not None
    return cost["flops"]
