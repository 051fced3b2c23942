"""Are our open-set scores those of pytorch-ood? Both on the same outputs: random ones, and those of a trained network.

    pip install '.[peers]'
    python experiments/benchmarks/scores_peers.py

Scores of ours are brought to the peer's by the map that is named in the table: a monotone function, so that ranks stay.
One row per score and kind of outputs: the largest difference of the values after the map, as a share of their range;
Spearman's rank correlation; our AUROC and by how much it is above the peer's; how many distinct values the scores of
ours and of the peer have, where float32 rounds some to the same. A score is equal where the difference is at most 1e-4.
"""

import dataclasses
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import osrjax
from osrjax.run.launch import launch

STEP = 0.0014


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare scores with pytorch-ood."""

    images: int = 1000
    """Random images of each kind: training, known, unknown."""
    seed: int = 0
    """Of the random images and of the training."""

    def check(self) -> None:
        """Refuses images that are too few for the neighbours and tails."""
        if self.images < 100:
            raise ValueError(f"images={self.images} is below 100: give more, such as 1000")
        if missing := [name for name in ("torch", "pytorch_ood") if not find_spec(name)]:
            raise ValueError(f"{missing[0]} is not installed: pip install '.[peers]' in an environment of its own")


class Outputs(NamedTuple):
    """A network of one hidden layer, and its images: known ones first among those that are scored."""

    weights: tuple[np.ndarray, ...]
    train: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    unknown: np.ndarray

    def features(self, images: np.ndarray) -> np.ndarray:
        """After the ReLU."""
        return np.maximum(images @ self.weights[0] + self.weights[1], 0)

    def stored(self) -> "osrjax.evaluation.StoredOutputs":
        """As evaluate.py reads them from a file."""
        parts = {"train": self.train, "known": self.known, "unknown": self.unknown}
        kernel, bias = self.weights[2:]
        outputs = {}
        for part, images in parts.items():
            embedding = self.features(images)
            outputs[part] = {"embedding": embedding, "logits": embedding @ kernel + bias}
        head = osrjax.scores.Head(kernel, bias)
        return osrjax.evaluation.StoredOutputs(outputs, {"train": self.labels}, len(bias), head)


def random_outputs(config: Config) -> Outputs:
    """Of a network of random weights, which names nine of ten training images right."""
    draws = np.random.default_rng(config.seed)
    shapes = ((64, 48), (48,), (48, 10), (10,))
    first, shift, kernel, bias = ((draws.normal(size=shape) / 4).astype(np.float32) for shape in shapes)
    train, known, unknown = (
        (size * draws.normal(size=(config.images, 64))).astype(np.float32) for size in (1.0, 1.0, 1.3)
    )
    bias -= np.maximum(train @ first + shift, 0).mean(axis=0) @ kernel  # so that no class is rare
    found = Outputs((first, shift, kernel, bias), train, np.zeros(0, int), known, unknown)
    labels = found.stored().outputs["train"]["logits"].argmax(axis=1)
    wrong = draws.random(config.images) < 0.1
    return found._replace(labels=np.where(wrong, draws.integers(0, 10, config.images), labels))


def digits_outputs(config: Config) -> Outputs:
    """Of scikit-learn's network, trained on its digits 0 to 7."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    images, classes = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    known = np.random.default_rng(config.seed).permutation(np.flatnonzero(classes < 8))
    train, tested = known[:900], known[900:]
    network = MLPClassifier((64,), tol=1e-3, random_state=config.seed).fit(images[train], classes[train])
    (first, kernel), (shift, bias) = network.coefs_, network.intercepts_
    weights = tuple(part.astype(np.float32) for part in (first, shift, kernel, bias))
    return Outputs(weights, images[train], classes[train], images[tested], images[classes >= 8])


def our_scores(outputs: Outputs) -> dict[str, np.ndarray]:
    """Every score of ours with a peer, of known and unknown images."""
    import jax

    stored = outputs.stored()
    parts = [stored.outputs[part] for part in ("known", "unknown")]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    fits, made = osrjax.evaluation.Fits(stored), osrjax.evaluation.OUTPUT_SCORES
    found = {name: made[name].make(fits)(rows)[0] for name in MAPS if name != "odin"}

    def logits(weights: Any, images: Any) -> Any:
        first, shift, kernel, bias = weights
        return (images @ first + shift).clip(0) @ kernel + bias

    images = np.concatenate([outputs.known, outputs.unknown])
    found["odin"] = osrjax.scores.odin_score(logits, outputs.weights, jax.numpy.asarray(images), step=STEP)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def peer_scores(outputs: Outputs) -> dict[str, np.ndarray]:
    """The same by pytorch-ood, with our settings."""
    import torch
    from pytorch_ood import detector

    first, shift, kernel, bias = map(torch.tensor, outputs.weights)
    classes, labels = len(bias), torch.tensor(outputs.labels)
    layer, head = torch.nn.Linear(*first.shape), torch.nn.Linear(*kernel.shape)
    with torch.no_grad():
        for linear, weight, offset in ((layer, first, shift), (head, kernel, bias)):
            linear.weight.copy_(weight.T)
            linear.bias.copy_(offset)
    backbone = torch.nn.Sequential(layer, torch.nn.ReLU())
    images = torch.tensor(np.concatenate([outputs.known, outputs.unknown]))
    train, features = (backbone(part).detach() for part in (torch.tensor(outputs.train), images))
    logits = head(features).detach()
    openmax = detector.OpenMax(None, tailsize=20, alpha=classes).fit_logits(head(train).detach(), labels)
    vim = detector.ViM(None, d=len(kernel) // 2, w=kernel.T, b=bias)
    network = torch.nn.Sequential(backbone, head)
    found = {
        "max_softmax": detector.MaxSoftmax.score(logits),
        "max_logit": detector.MaxLogit.score(logits),
        "energy": detector.EnergyBased.score(logits),
        "entropy": detector.Entropy.score(logits),
        "generalised_entropy": detector.GEN.score(logits, gamma=0.1, M=100),
        "gradient_norm": detector.GradNorm(head, lambda name: name == "weight").predict(features),
        "openmax": openmax.predict_logits(logits),
        "kth_neighbour": detector.KNN(None, k=50).fit_features(train, labels).predict_features(features),
        "mahalanobis": detector.Mahalanobis(None).fit_features(train, labels).predict_features(features),
        "relative_mahalanobis": detector.RMD(None).fit_features(train, labels).predict_features(features),
        "vim": vim.fit_features(train, labels).predict_features(features),
        "react": detector.ReAct(backbone, head).fit_feature_maps(train, labels).predict_feature_maps(features),
        "odin": detector.ODIN(network, eps=STEP).predict(images),
    }
    return {name: values.detach().numpy().astype(np.float64) for name, values in found.items()}


def same(score: np.ndarray, _: Outputs) -> np.ndarray:
    """No map."""
    return score


# Name: the map to the peer's score in words, and as a function of ours and the outputs.
MAPS: dict[str, tuple[str, Callable[[np.ndarray, Outputs], np.ndarray]]] = {
    "max_softmax": ("-e^-s", lambda s, _: -np.exp(-s)),
    "max_logit": ("s", same),
    "energy": ("s", same),
    "entropy": ("s", same),
    "generalised_entropy": ("s / classes", lambda s, o: s / len(o.weights[3])),
    "gradient_norm": ("s", same),
    "openmax": ("1 / (1 + e^-s)", lambda s, _: 1 / (1 + np.exp(-s))),
    "kth_neighbour": ("sqrt(2 + 2 s)", lambda s, _: np.sqrt(np.maximum(2 + 2 * s, 0))),
    "mahalanobis": ("s / (2 N)", lambda s, o: s / (2 * len(o.labels))),
    "relative_mahalanobis": ("s / N", lambda s, o: s / len(o.labels)),
    "vim": ("s", same),
    "react": ("s", same),
    "odin": ("-e^(-s / T) / classes", lambda s, o: -np.exp(-s / 1000) / len(o.weights[3])),
}


def main(arguments: list[str] | None = None) -> int:
    """Parses, compares, tabulates; returns the exit code."""
    return launch(Config, compare, script="scores_peers.py", description=__doc__, arguments=arguments)


def compare(config: Config) -> int:
    """The whole job; returns the exit code."""
    from scipy.stats import spearmanr

    table = []
    for kind, outputs in (("random", random_outputs(config)), ("digits", digits_outputs(config))):
        ours, peers = our_scores(outputs), peer_scores(outputs)
        ends = [len(outputs.known)]
        for name, (words, to_peer) in MAPS.items():
            mine, theirs = ours[name], peers[name]
            apart = np.abs(to_peer(mine, outputs) - theirs).max() / np.ptp(theirs)
            auroc, peer_auroc = (osrjax.metrics.auroc(*np.split(values, ends)) for values in (mine, theirs))
            table.append(
                {
                    "score": name,
                    "outputs": kind,
                    "map": words,
                    "difference": f"{apart:.1e}",
                    "": "equal" if apart <= 1e-4 else "differs",
                    "ranks": f"{spearmanr(mine, theirs).statistic:.6f}",
                    "AUROC": f"{auroc:.4f}",
                    "ours - peer": f"{auroc - peer_auroc:+.1e}",
                    "distinct": f"{len(np.unique(mine))}, {len(np.unique(theirs))} of {len(mine)}",
                }
            )
    table.sort(key=lambda row: list(MAPS).index(row["score"]))
    print(osrjax.report.results_table(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
