"""Do exact norms by plain `jax.jit` over a mesh share their work? Programs for many devices, compiled and not run.

    python experiments/benchmarks/jacobian_mesh.py                       WRN-16-4 and ViT-S on 8 virtual devices
    python experiments/benchmarks/jacobian_mesh.py --devices 16 --networks vit_s

A user jits `input_jacobian_norms` and puts the images on a mesh, no more. For a mesh of Auto and one of Explicit axes:
`share`: operations of a device over those of one device with all images, at best 1 / devices; what the devices tell
each other; how the norms are spread. `jax.vmap(jax.jacrev)`, which holds whole matrices, stands beside it.
"""

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import tyro
from compiled_steps import quick_options
from jacobian_passes import MATRIX, Embedding, matrix_norms, our_norms_of, unit_embedding
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from osrjax.analysis import costs
from osrjax.models.backbones import NETWORKS


class ViT(nn.Module):
    """A vision transformer with the average of its tokens as embedding; ViT-S by default, with patches for 32 x 32."""

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 4

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        """No maps, and the raw embedding."""
        del train, taps
        x = nn.Conv(self.width, (self.patch, self.patch), (self.patch, self.patch), "VALID")(images)
        x = x.reshape(len(x), -1, self.width)
        x += self.param("positions", nn.initializers.normal(0.02), x.shape[1:])[None]
        for _ in range(self.depth):
            x += nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
            x += nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return (), nn.LayerNorm()(x).mean(axis=1)


BACKBONES: dict[str, Callable[[], nn.Module]] = {"wrn16_4": NETWORKS["wrn16_4"], "vit_s": ViT}
SMOKE = {"vit_small": lambda: ViT(width=8, depth=1, heads=2, patch=16)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile norms for a mesh and say what each device does."""

    networks: tuple[Literal["wrn16_4", "vit_s"], ...] = ("wrn16_4", "vit_s")
    """Networks to compile, one after another; images have 32 x 32 x 3 values."""
    devices: int = 8
    """Devices of the mesh."""
    images: int = 64
    """Images over all devices."""
    smoke: bool = False
    """Seconds-long version: a small network on 2 devices, by osrjax alone."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, compiles, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, devices=2, images=4)
    if config.devices < 2 or config.images < 1 or config.images % config.devices:
        what = f"images={config.images} on devices={config.devices}"
        print(f"jacobian_mesh.py: {what}: give 2 devices or more and a multiple of them", file=sys.stderr)
        return 2
    if not config.smoke:
        jax.config.update("jax_num_cpu_devices", config.devices)
    print(f"{'network':10} {'norms':22} {'mesh':9} {'GFLOP':>9} {'share':>6}  {'norms over':12} collectives")
    for name, backbone in (SMOKE if config.smoke else {n: BACKBONES[n] for n in config.networks}).items():
        embedding = unit_embedding(backbone(), (32, 32, 3))
        peer = {} if config.smoke else {MATRIX: matrix_norms(embedding)}
        for who, norms in {"osrjax": our_norms_of(embedding), **peer}.items():
            alone = operations(over_mesh(norms, embedding, config.images, mesh_of(1, AxisType.Auto)))
            for kind in (AxisType.Auto, AxisType.Explicit):
                program = over_mesh(norms, embedding, config.images, mesh_of(config.devices, kind))
                print(f"{name:10} {who:22} {kind.name:9} {row(program, alone)}", flush=True)
    return 0


def mesh_of(devices: int, kind: AxisType) -> jax.sharding.Mesh:
    """A mesh of so many devices along "data"."""
    return jax.make_mesh((devices,), ("data",), axis_types=(kind,), devices=jax.devices()[:devices])


def over_mesh(norms: Callable, embedding: Embedding, images: int, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """The compiled norms of images that are spread over the mesh, with variables on all its devices."""

    def placed(shape: tuple[int, ...], spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

    variables = jax.tree.map(lambda leaf: placed(leaf.shape, P()), embedding.variables)
    rows = placed((images, *embedding.image_shape), P("data"))
    return jax.jit(norms, compiler_options=quick_options()).lower(variables, rows).compile()


def operations(program: jax.stages.Compiled) -> float:
    """Floating-point operations of a device; those of a loop count once, here as there."""
    found = program.cost_analysis()
    assert found is not None
    return found["flops"]


def row(program: jax.stages.Compiled, alone: float) -> str:
    """What a device of a program does, beside one device that does it all."""
    told = Counter(one.kind for one in costs.collectives(program.as_text() or "", ()))
    spec = str(getattr(program.output_shardings, "spec", "one device")).removeprefix("PartitionSpec")
    own = operations(program)
    words = ", ".join(f"{count} {kind}" for kind, count in told.items()) or "none"
    return f"{own / 1e9:9.2f} {own / alone:6.3f}  {spec:12} {words}"


if __name__ == "__main__":
    sys.exit(main())
