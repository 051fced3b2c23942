"""How good are a few random projections in place of the exact input-Jacobian norm? For a trained run.

    python experiments/estimator.py runs/NAME

Takes the whole Jacobian J of each of 1000 test images (unit embedding), then compares with the exact norms: the
projections of the network itself (are they unbiased?), and thousands of repetitions of the estimate, for which
the network is replaced by the linear map with the same J J^T, which has the same distribution and costs little.
Printed for n = 2, 8 and 32 projections an image: how often the 95 % interval of one image and that of the data
set's mean cover the exact value, and how far the square root is off. The last line is one JSON object.
"""

import dataclasses
import sys
from functools import partial
from typing import Literal, get_args

import numpy as np
from tqdm import tqdm

import osrjax
from osrjax.run.launch import FinishedConfig, launch

Distribution = Literal["rademacher", "gaussian"]


@dataclasses.dataclass(frozen=True)
class Config(FinishedConfig):
    """Measure the estimator of Jacobian norms on a trained network."""

    images: int = 1000
    """Test images, spread evenly over the run's test set."""
    repetitions: int = 500
    """Repetitions of the estimate with 32 projections (4 times as many with 8, 16 times with 2)."""
    seed: int = 0
    """Seed of the projections."""
    smoke: bool = False
    """Seconds-long version: 40 images, 10 repetitions."""

    def check(self) -> None:
        """Refuses numbers of which no spread can be taken."""
        if self.images < 2 or self.repetitions < 2:
            raise ValueError(f"images={self.images} and repetitions={self.repetitions}: give at least 2 of each")


SAMPLES = (2, 8, 32)
DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)
BATCH = 50


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures; returns the exit code."""
    smoke = {"images": 40, "repetitions": 10}
    return launch(Config, measure, script="estimator.py", description=__doc__, smoke=smoke, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    finished = config.open()
    import jax

    osrjax.devices.cpu.reuse_host_memory()
    pixels, _ = finished.source.splits["test"]
    chosen = np.linspace(0, len(pixels) - 1, min(config.images, len(pixels))).astype(int)

    embedding = partial(finished.method.functions["embedding"], finished.variables)
    exact, factors, projected = jacobians(embedding, pixels[chosen], jax.random.key(config.seed))
    squares = exact**2
    standard_error = np.sqrt(np.sum(np.var(projected, axis=1, ddof=1) / projected.shape[1])) / len(projected)
    z = np.mean(np.mean(projected, axis=1) - squares) / standard_error
    ratio = np.mean(projected) / np.mean(squares)
    print(
        f"{len(chosen)} images, projections of the network itself: mean / exact {ratio:.4f}, {z:+.2f} standard errors"
    )
    rows, numbers = [], {"images": len(chosen), "network": {"mean_over_exact": ratio, "standard_errors": z}}
    for distribution in DISTRIBUTIONS:
        found = repeated(factors, squares, config, distribution)
        for samples in SAMPLES:
            numbers[f"{distribution} {samples}"] = found[samples]
            texts = {name: f"{value:.4f}" for name, value in found[samples].items()}
            rows.append({"projections": distribution, "n": str(samples), **texts})
    print(osrjax.report.results_table(rows))
    errors = ", ".join(
        f"{100 * np.sqrt(0.95 * 0.05 / (config.repetitions * max(SAMPLES) // n)):.1f} % for n = {n}" for n in SAMPLES
    )
    print(f"simulation error of a coverage of 95 % of the mean: {errors}")
    print(osrjax.files.json_text(numbers))
    return 0


def jacobians(embedding, pixels, key):
    """Exact norms, a factor C with C C^T = J J^T for each image, and the network's own projected squares."""
    import jax
    import jax.numpy as jnp

    options = osrjax.devices.cpu.compiler_options()
    one_image = partial(osrjax.jacobian.input_jacobian, lambda x: embedding(x[None])[0], mode="reverse")
    whole = jax.jit(jax.vmap(one_image), compiler_options=options)
    norms = jax.jit(partial(osrjax.jacobian.input_jacobian_norms, embedding), compiler_options=options)

    one = partial(osrjax.jacobian.projected_squares, lambda x: embedding(x[None])[0], samples=max(SAMPLES))
    projections = jax.jit(jax.vmap(one), compiler_options=options)
    exact, factors, projected = [], [], []
    keys = jax.random.split(key, len(pixels))
    for start in tqdm(range(0, len(pixels), BATCH), desc="exact", unit="batch", disable=None):
        images = osrjax.augment.to_float(jnp.asarray(pixels[start : start + BATCH]))
        matrix = np.asarray(whole(images), np.float64).reshape(len(images), -1, images[0].size)
        gram = np.einsum("nij,nkj->nik", matrix, matrix, optimize=True)
        values, vectors = np.linalg.eigh(gram)
        factors.append((vectors * np.sqrt(np.maximum(values, 0))[:, None, :]).astype(np.float32))
        exact.append(np.asarray(norms(images), np.float64))
        projected.append(np.asarray(projections(keys[start : start + BATCH], images), np.float64))
    return np.concatenate(exact), np.concatenate(factors), np.concatenate(projected)


def repeated(factors, squares, config: Config, distribution: Distribution) -> dict[int, dict[str, float]]:
    """Coverage of the intervals and bias of the square root, for every number of projections."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def once(key, factors, squares):
        keys = jax.random.split(key, len(factors))

        def of_one(key, factor):
            start = jnp.zeros(factor.shape[1])
            return osrjax.jacobian.projected_squares(
                lambda x: factor @ x, key, start, samples=max(SAMPLES), distribution=distribution, chunk_size=32
            )

        drawn = jax.vmap(of_one)(keys, factors)
        found = {}
        for samples in SAMPLES:
            groups = jnp.moveaxis(drawn.reshape(len(factors), -1, samples), 1, 0)  # repetitions, images, samples
            single, mean = osrjax.jacobian.jacobian_estimate(groups), jax.vmap(osrjax.jacobian.mean_estimate)(groups)
            truth = jnp.mean(squares)
            found[samples] = {
                "coverage, one image": jnp.mean((single.low <= squares[None]) & (squares[None] <= single.high)),
                "coverage, mean": jnp.mean((mean.low <= truth) & (truth <= mean.high)),
                "bias of the root": jnp.mean(single.norm / jnp.sqrt(squares)[None] - 1),
                "bias, predicted": jnp.mean(single.norm_bias / jnp.sqrt(squares)[None]),
                "standard error of the mean": jnp.mean(mean.standard_error) / truth,
            }
        return found

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), config.repetitions)
    factors, squares = jnp.asarray(factors), jnp.asarray(squares, jnp.float32)
    results = [jax.device_get(once(key, factors, squares)) for key in tqdm(keys, desc=distribution, disable=None)]
    return {n: {name: float(np.mean([r[n][name] for r in results])) for name in results[0][n]} for n in SAMPLES}


if __name__ == "__main__":
    sys.exit(main())
