"""How large is the input-Jacobian norm before any training, and what do running statistics have to do with it?

    python experiments/untrained.py
    python experiments/untrained.py runs/NAME runs/OTHER     and the same after training

An untrained network's batch norms hold mean 0 and variance 1, which describe none of its layers. Norms of the unit
embedding and of the raw embedding at test images of the bundled set, with these initial statistics and with
statistics estimated on training images, for several networks and seeds; for finished runs on that set, with the
running statistics of training and with estimated ones. The last line is one JSON object.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from osrjax import report
from osrjax.analysis.norms import dataset_jacobian_norms
from osrjax.augment.pixels import to_float_host
from osrjax.data import open_source
from osrjax.devices.cpu import reuse_host_memory
from osrjax.metrics import intervals
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork
from osrjax.run.finished import norm_functions, open_finished
from osrjax.train.apply import estimate_statistics
from osrjax.train.optimizers import make_sgd
from osrjax.train.step import TrainState, init_state

NetworkName = Literal["small_cnn", "classifier32", "wrn16_4", "resnet18", "resnet34", "resnet50"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure norms of untrained networks."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Finished runs of train.py or contrastive.py on the bundled images, to measure too."""
    networks: tuple[NetworkName, ...] = ("small_cnn", "classifier32", "wrn16_4")
    """Networks, one after another."""
    seeds: int = 3
    """Initialisations of each."""
    images: int = 10
    """Test images, one of each class after another."""
    smoke: bool = False
    """Seconds-long version: the smallest network, 2 seeds."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, networks=("small_cnn",), seeds=2, images=2)
    try:
        return measure(config)
    except ValueError as error:
        print(f"untrained.py: {error}", file=sys.stderr)
        return 2


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    if config.seeds < 2 or config.images < 1:
        raise ValueError(f"seeds={config.seeds}, images={config.images}: give at least 2 seeds and 1 image")
    trained = {str(run): trained_network(run) for run in config.runs}
    reuse_host_memory()
    source = open_source("fashion_mnist_small")
    test = source.splits["test"]
    most = -(-config.images // len(source.class_names))
    turns = np.stack([np.flatnonzero(test.labels == k)[:most] for k in range(len(source.class_names))], axis=1)
    images = to_float_host(test.images[turns.reshape(-1)[: config.images]])
    rows, numbers = [], {}
    for name in config.networks:
        found = [norms_of(name, seed, source.splits["train"].images, images) for seed in range(config.seeds)]
        for statistics in ("initial", "estimated"):
            row = {"network": name, "running statistics": statistics}
            for quantity in ("embedding", "raw_embedding"):
                estimate = intervals.t_interval(np.array([[run[statistics][quantity]] for run in found]))
                row[quantity] = f"{estimate.mean:.3f} [{estimate.interval[0]:.3f}, {estimate.interval[1]:.3f}]"
                numbers[f"{name}, {statistics}, {quantity}"] = {"mean": estimate.mean, "interval": estimate.interval}
            rows.append(row)
    for run, network_and_state in trained.items():
        found = norms_with_both(*network_and_state, source.splits["train"].images, images)
        for statistics, norms in found.items():
            label = {"initial": "of training", "estimated": "estimated"}[statistics]
            rows.append(
                {"network": run, "running statistics": label} | {q: f"{value:.3f}" for q, value in norms.items()}
            )
            numbers[f"{run}, {label}"] = norms
    print(f"mean norm at {config.images} images, mean and 95 % t interval over {config.seeds} seeds")
    print(report.results_table(rows))
    print(json.dumps(numbers))
    return 0


def norms_of(name: NetworkName, seed: int, training: np.ndarray, images: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean norms of one untrained network with either kind of running statistics."""
    network = OpenSetNetwork(NETWORKS[name](), classes=6)
    hyper = {"learning_rate": 0.1, "final_learning_rate": 0.0, "weight_decay": 0.0}  # no step is taken
    new_state = jax.jit(
        lambda key: init_state(key, network, make_sgd(total_steps=1), hyper, image_shape=training.shape[1:])
    )
    return norms_with_both(network, new_state(jax.random.key(seed)), training, images)


def trained_network(run: Path) -> tuple[OpenSetNetwork | ContrastiveNetwork, TrainState]:
    """The network of a finished run on the bundled images, and its parameters and statistics."""
    finished = open_finished(run, argument="runs", needed=("network.npz", "config.json", "provenance.json"))
    if finished.config["data"] != "fashion_mnist_small":
        raise ValueError(f"runs={str(run)!r} is about {finished.config['data']}: give a run on fashion_mnist_small")
    params, stats = (finished.variables[name] for name in ("params", "batch_stats"))
    return finished.network, TrainState(jnp.zeros((), int), params, stats, ())


def norms_with_both(
    network: OpenSetNetwork | ContrastiveNetwork, state: TrainState, training: np.ndarray, images: np.ndarray
) -> dict:
    """Mean norms of a network with the running statistics that it has, and with estimated ones."""
    states = {"initial": state, "estimated": estimate_statistics(state, network, training, batch_size=64)}
    functions = {name: norm_functions(network)[name] for name in ("embedding", "raw_embedding")}
    found = {}
    for statistics, with_statistics in states.items():
        variables = {"params": with_statistics.params, "batch_stats": with_statistics.stats}
        norms = dataset_jacobian_norms(functions, jax.tree.map(jnp.asarray, variables), images)
        found[statistics] = {quantity: float(values.mean()) for quantity, values in norms.items()}
    return found


if __name__ == "__main__":
    sys.exit(main())
