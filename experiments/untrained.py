"""How large is the input-Jacobian norm before any training, and what do running statistics have to do with it?

    python experiments/untrained.py
    python experiments/untrained.py runs/NAME runs/OTHER     and the same after training

An untrained network's batch norms hold mean 0 and variance 1, which describe none of its layers. Norms of the unit
embedding and of the raw embedding at test images of the bundled set, with these initial statistics and with
statistics estimated on training images, for several networks and seeds; for finished runs on that set, with the
running statistics of training and with estimated ones. The last line is one JSON object.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import osrjax
from osrjax.models.table import NetworkName
from osrjax.run.launch import launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure norms of untrained networks."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Finished runs of train.py or contrastive.py on the bundled images, to measure too."""
    own_method: str | None = None
    """Of runs of a method of one's own: its MODULE:FUNCTION, named again since that code is imported."""
    networks: tuple[NetworkName, ...] = ("small_cnn", "classifier32", "wrn16_4")
    """Networks, one after another."""
    seeds: int = 3
    """Initialisations of each."""
    images: int = 10
    """Test images, one of each class after another."""
    smoke: bool = False
    """Seconds-long version: the smallest network, 2 seeds."""

    def check(self) -> None:
        """Refuses a single seed, which has no interval."""
        if self.seeds < 2 or self.images < 1:
            raise ValueError(f"seeds={self.seeds}, images={self.images}: give at least 2 seeds and 1 image")


NORM = (0.0, np.inf)


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    smoke = {"networks": ("small_cnn",), "seeds": 2, "images": 2}
    return launch(Config, measure, script="untrained.py", description=__doc__, smoke=smoke, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    trained = {str(run): trained_network(run, config.own_method) for run in config.runs}
    osrjax.devices.cpu.reuse_host_memory()
    source = osrjax.data.open_source("fashion_mnist_small")
    test = source.splits["test"]
    most = -(-config.images // len(source.class_names))
    turns = np.stack([np.flatnonzero(test.labels == k)[:most] for k in range(len(source.class_names))], axis=1)
    images = osrjax.augment.to_float_host(test.images[turns.reshape(-1)[: config.images]])
    rows, numbers = [], {}
    for name in config.networks:
        found = [norms_of(name, seed, source.splits["train"].images, images) for seed in range(config.seeds)]
        for statistics in ("initial", "estimated"):
            row = {"network": name, "running statistics": statistics}
            for quantity in ("embedding", "raw_embedding"):
                estimate = osrjax.metrics.t_interval(np.array([[run[statistics][quantity]] for run in found]))
                row[quantity] = osrjax.report.estimate_text(estimate, bounds=NORM)
                numbers[f"{name}, {statistics}, {quantity}"] = osrjax.report.estimate_json(estimate, bounds=NORM)
            rows.append(row)
    for run, trained_one in trained.items():
        found = norms_with_both(*trained_one, source.splits["train"].images, images)
        for statistics, norms in found.items():
            label = {"initial": "of training", "estimated": "estimated"}[statistics]
            rows.append(
                {"network": run, "running statistics": label} | {q: f"{value:.3f}" for q, value in norms.items()}
            )
            numbers[f"{run}, {label}"] = norms
    print(f"mean norm at {config.images} images, mean and 95 % t interval over {config.seeds} seeds")
    print(osrjax.report.results_table(rows))
    print(osrjax.files.json_text(numbers))
    return 0


def norms_of(name: NetworkName, seed: int, training: np.ndarray, images: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean norms of one untrained network with either kind of running statistics."""
    import jax

    network = osrjax.models.OpenSetNetwork(osrjax.models.NETWORKS[name](), classes=6)
    hyper = {"learning_rate": 0.1, "final_learning_rate": 0.0, "weight_decay": 0.0}  # no step is taken
    optimizer = osrjax.train.make_sgd(total_steps=1)
    new_state = jax.jit(
        lambda key: osrjax.train.init_state(key, network, optimizer, hyper, image_shape=training.shape[1:])
    )
    functions = osrjax.models.network_functions(network)
    return norms_with_both(network, functions, new_state(jax.random.key(seed)), training, images)


def trained_network(run: Path, own_method: str | None) -> tuple[Any, Mapping[str, Callable], Any]:
    """The network of a finished run on the bundled images, its functions, and its parameters and statistics."""
    import jax.numpy as jnp

    finished = osrjax.run.open_finished(run, argument="runs", own_method=own_method)
    data = finished.config.get("data")
    if data != "fashion_mnist_small":
        raise ValueError(f"runs={str(run)!r} is about {data}: give a run on fashion_mnist_small")
    params, stats = (finished.variables[name] for name in ("params", "batch_stats"))
    state = osrjax.train.TrainState(jnp.zeros((), int), params, stats, ())
    return finished.network, finished.method.functions, state


def norms_with_both(
    network: Any, functions: Mapping[str, Callable], state: Any, training: np.ndarray, images: np.ndarray
) -> dict[str, dict[str, float]]:
    """Mean norms of a network with the running statistics that it has, and with estimated ones."""
    estimated = osrjax.train.estimate_statistics(state, network, training, batch_size=64)
    functions = {name: functions[name] for name in ("embedding", "raw_embedding")}
    found = {}
    for statistics, with_statistics in {"initial": state, "estimated": estimated}.items():
        norms = osrjax.analysis.dataset_jacobian_norms(functions, with_statistics.variables, images)
        found[statistics] = {quantity: float(values.mean()) for quantity, values in norms.items()}
    return found


if __name__ == "__main__":
    sys.exit(main())
