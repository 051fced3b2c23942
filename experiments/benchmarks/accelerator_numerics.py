"""Does the accelerator compute what the CPU does? The library's main functions on both, for accelerator.py.

Each case gives rows: what was compared, its largest relative error, and the limit that it must keep; a row without a
limit is told for comparison. Errors are the largest difference over the largest value of the CPU. A unit next to the
kink of its ReLU can turn on or off by rounding and moves its image by more than that: of four or more images through
such a network all but one must keep the limit. Between float32 and float64 on a CPU no row is above 1e-6.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import accelerator_speed
import jax
import jax.numpy as jnp
import numpy as np
import speed_train
from accelerator_cases import Cases
from comparison import CLASSES, image_shape
from jacobian_passes import matrix_norms, our_norms_of, unit_embedding

from osrjax import attribution, losses, scores
from osrjax.augment import mixing
from osrjax.jacobian import input_jacobian_norms
from osrjax.metrics import auroc
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork, zero_taps

LIMIT = 1e-5
KINKS = 4  # of so many images or more, one may leave the limit


def numerics(networks: Sequence[str], images: int) -> Cases:
    """The comparisons; those of networks on so many images."""
    cases: dict[str, Callable[[], Mapping[str, Any]]] = {
        "products": products,
        "losses": classification_losses,
        "contrastive losses": contrastive_losses,
        "scores": all_scores,
        "maps and boxes": maps_and_boxes,
        "norms of a smooth network": smooth_norms,
    }
    cases |= {f"forward pass of {network}": partial(forward_pass, network, images) for network in networks}
    cases |= {f"maps of {network}": partial(network_maps, network, images) for network in networks[:1]}
    cases |= {f"training step of {network}": partial(training_step, network, images) for network in networks[:1]}
    cases |= {f"norms of {network}": partial(network_norms, network, images) for network in networks}
    return Cases(accelerator_speed.facts(), cases)


# ---------------------------------------------------------------------------------------------- two devices


def on(where: Literal["accelerator", "cpu"], fn: Callable[..., Any], *arguments: Any) -> Any:
    """The results of a jitted function on one of the two, as NumPy arrays."""
    device = jax.local_devices(backend="cpu")[0] if where == "cpu" else jax.local_devices()[0]
    with jax.default_device(device):
        return jax.tree.map(np.asarray, jax.jit(fn)(*jax.device_put(arguments, device)))


def errors(fn: Callable[..., Any], *arguments: Any, by_row: bool = False) -> dict[str, np.ndarray]:
    """Relative errors of a function's results by name, one number or one for each row."""
    found, expected = (on(where, fn, *arguments) for where in ("accelerator", "cpu"))
    return {name: relative_errors(found[name], expected[name], by_row=by_row) for name in expected}


def relative_errors(found: np.ndarray, expected: np.ndarray, *, by_row: bool = False) -> np.ndarray:
    """The largest difference over the largest value, of all or of each row; infinite where one is not finite."""
    axes = tuple(range(1 if by_row else 0, np.ndim(expected)))
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    largest = np.abs(expected).max(axis=axes)
    error = np.abs(found - expected).max(axis=axes) / np.where(largest > 0, largest, 1.0)
    return np.where(np.isfinite(error), error, np.inf)


def row(what: str, error: float | np.ndarray, limit: float | None = LIMIT) -> dict[str, Any]:
    """A row of the table; an error that JSON has no word for is a large one."""
    return {"what": what, "error": min(float(error), 1e30), "limit": limit}


def rows(fn: Callable[..., Any], *arguments: Any, limit: float | None = LIMIT) -> dict[str, Any]:
    """The rows of a function whose results must all keep a limit."""
    return {"rows": [row(name, error, limit) for name, error in errors(fn, *arguments).items()]}


def rows_of_images(name: str, each: np.ndarray) -> list[dict[str, Any]]:
    """The rows of the errors of images through a network with kinks."""
    ordered = np.sort(each)[::-1]
    kept = ordered[1 if len(each) >= KINKS else 0]
    return [row(f"{name}, all images but one of {KINKS} or more", kept), row(f"{name}, all images", ordered[0], None)]


def uniform(*shape: int, seed: int = 0, largest: float = 1.0) -> np.ndarray:
    """Values of both signs, the same everywhere."""
    return np.random.default_rng(seed).uniform(-largest, largest, shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------- functions of arrays


def products() -> dict[str, Any]:
    """Products and convolutions at both precisions: the default one says what the device would do by itself."""
    left, right = uniform(512, 512), uniform(512, 512, seed=1)
    images, kernel = uniform(8, 16, 16, 64), uniform(3, 3, 64, 64, seed=1)
    exact = left.astype(np.float64) @ right.astype(np.float64)

    def convolution(images, kernel, precision):
        found = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
        )
        return {"convolution": found}

    found = []
    for precision, limit in (("highest", LIMIT), ("default", None)):
        product = on("accelerator", partial(jnp.matmul, precision=precision), left, right)
        found.append(row(f"product, {precision} precision, against float64", relative_errors(product, exact), limit))
        convolved = errors(partial(convolution, precision=precision), images, kernel)["convolution"]
        found.append(row(f"convolution, {precision} precision", convolved, limit))
    return {"rows": found}


def classification_losses() -> dict[str, Any]:
    """Losses on cosines and their gradients."""
    cosines, labels = uniform(256, 10, largest=0.99), np.arange(256, dtype=np.int32) % 10

    def found(cosines, labels):
        named = {"m_ovr_loss": losses.m_ovr_loss, "cosine_softmax_loss": losses.cosine_softmax_loss}
        values = {name: loss(cosines, labels) for name, loss in named.items()}
        gradients = {
            f"{name}, gradient": jax.grad(lambda x, loss=loss: jnp.sum(loss(x, labels)))(cosines)
            for name, loss in named.items()
        }
        return values | gradients

    return rows(found, cosines, labels)


def contrastive_losses() -> dict[str, Any]:
    """The supervised contrastive loss of two views and its gradient."""
    views, labels = uniform(2, 128, 64), np.arange(128, dtype=np.int32) % 6

    def total(views):
        unit = views / jnp.linalg.norm(views, axis=-1, keepdims=True)
        each = losses.supcon_loss(unit, jnp.asarray(labels))
        return jnp.sum(each), each

    def found(views):
        (_, each), gradient = jax.value_and_grad(total, has_aux=True)(views)
        return {"supcon_loss": each, "supcon_loss, gradient": gradient}

    return rows(found, views)


def all_scores() -> dict[str, Any]:
    """Scores, and what metrics read and say of them."""
    logits, features = uniform(512, 10, largest=8.0), uniform(512, 64)
    labels = np.arange(512, dtype=np.int32) % 10
    fitted = scores.fit_mahalanobis(features + 0.2 * labels[:, None].astype(np.float32), labels, classes=10)
    bank = scores.fit_knn(features, labels, classes=10)

    def found(logits, features, fitted, bank):
        distances = scores.mahalanobis_distances(fitted, features)
        similarities = scores.class_similarities(bank, features, neighbours=5)
        return {
            "m_ovr_score": scores.m_ovr_score(logits / 8.0),
            "max_softmax_score": scores.max_softmax_score(logits),
            "energy_score": scores.energy_score(logits),
            "entropy_score": scores.entropy_score(logits),
            "mahalanobis_score": scores.mahalanobis_score(distances),
            "knn_sum_score": scores.knn_sum_score(similarities),
        }

    arguments = (logits, features, fitted, bank)
    result = rows(found, *arguments)
    ours, cpu = (on(where, found, *arguments) for where in ("accelerator", "cpu"))
    apart = [abs(auroc(ours[name][:256], ours[name][256:]) - auroc(s[:256], s[256:])) for name, s in cpu.items()]
    result["rows"].append(row("AUROC of any of these", max(apart), 1e-4))
    return result


def maps_and_boxes() -> dict[str, Any]:
    """Attribution maps of given activations; GradMix's boxes on the CPU's maps, which must be the same to the pixel."""
    shapes = ((16, 16, 64), (8, 8, 128))
    activations = tuple(np.abs(uniform(16, *shape)) for shape in shapes)
    gradients = tuple(uniform(16, *shape, seed=1) for shape in shapes)
    make_maps = partial(attribution.attribution_maps, height=32, width=32)
    result = rows(lambda a, g: {"attribution_maps": make_maps(a, g)}, activations, gradients)
    maps = on("cpu", make_maps, activations, gradients)

    def boxes(key, images, maps):
        share_key, fill_key = jax.random.split(key)
        share = mixing.gradmix_share(share_key, len(images), per_image=True)
        bounds = attribution.box_bounds(attribution.map_peaks(maps), share, height=32, width=32)
        return {"share": share, "boxes": bounds, "images": mixing.gradmix(fill_key, images, maps, share).images}

    arguments = (jax.random.key(0), uniform(16, 32, 32, 3), maps)
    ours, cpu = (on(where, boxes, *arguments) for where in ("accelerator", "cpu"))
    result["rows"] += [
        row("gradmix_share", relative_errors(ours["share"], cpu["share"])),
        row("box_bounds, images whose box differs", np.sum((ours["boxes"] != cpu["boxes"]).any(axis=1)), 0.0),
        row("gradmix, images", relative_errors(ours["images"], cpu["images"])),
    ]
    return result


# ---------------------------------------------------------------------------------------------- networks


def smooth_norms() -> dict[str, Any]:
    """Exact norms of a network without kinks, each of which must keep the limit, and without HIGHEST for comparison."""
    first, second = uniform(192, 128) / math.sqrt(64), uniform(128, 32, seed=1) / math.sqrt(43)

    def network(first, second, x):
        return jnp.tanh(jnp.tanh(x @ first) @ second)

    def found(first, second, images):
        return {"norms": input_jacobian_norms(partial(network, first, second), images)}

    def plain(first, second, images):
        matrix = jax.vmap(jax.jacrev(partial(network, first, second)))(images)
        return {"norms": jnp.sqrt(jnp.sum(jnp.square(matrix), axis=(1, 2)))}

    arguments = (first, second, uniform(32, 192, seed=2))
    return {
        "rows": [
            row("largest of 32 images", max(errors(found, *arguments, by_row=True)["norms"])),
            row("plain JAX at the default precision", max(errors(plain, *arguments, by_row=True)["norms"]), None),
            row("operations below HIGHEST", below_highest(found, *arguments), 0.0),
        ]
    }


def network_norms(name: str, images: int) -> dict[str, Any]:
    """Exact norms of a network's unit embedding, and the operations of their program that are not at HIGHEST."""
    embedding = unit_embedding(NETWORKS[name](), image_shape(name))
    norms, plain = our_norms_of(embedding), matrix_norms(embedding)
    arguments = (embedding.variables, uniform(images, *embedding.image_shape))
    each = errors(lambda *given: {"norms": norms(*given)}, *arguments, by_row=True)["norms"]
    found = [*rows_of_images("norms", each), row("operations below HIGHEST", below_highest(norms, *arguments), 0.0)]
    if name == "small_cnn":  # the whole matrix of a larger network takes long to compile
        default = errors(lambda *given: {"norms": plain(*given)}, *arguments, by_row=True)["norms"]
        found.append(row("plain JAX at the default precision, median", float(np.median(default)), None))
    return {"rows": found}


def below_highest(fn: Callable[..., Any], *arguments: Any) -> int:
    """Products and convolutions of a function's program, as it is given to the compiler, that are not at HIGHEST."""
    text = jax.jit(fn).lower(*arguments).as_text()
    lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(convolution|dot_general|dot)\b", line)]
    if not lines:
        raise ValueError("the program has no product: its text is another than expected")
    return sum(line.count("HIGHEST") < 2 for line in lines)


def network_maps(name: str, images: int) -> dict[str, Any]:
    """Attribution maps of m-OvR's loss through a network at HIGHEST."""
    shape = image_shape(name)
    network, variables = _network(name)
    labels = np.arange(images, dtype=np.int32) % CLASSES
    taps = zero_taps(network, shape, images)

    def found(variables, images, labels, taps):
        def loss(taps):
            outputs: Any = network.apply(variables, images, train=False, taps=taps)
            return jnp.sum(losses.m_ovr_loss(outputs.logits, labels)), outputs.maps

        with jax.default_matmul_precision("highest"):
            stages = attribution.last_layers(len(taps))
            activations, gradients = attribution.stage_gradients(loss, taps, layers=stages)
        return {
            "maps": attribution.attribution_maps(
                activations, gradients, height=shape[0], width=shape[1], aggregation="sample_max_sum"
            )
        }

    each = errors(found, variables, uniform(images, *shape), labels, taps, by_row=True)["maps"]
    return {"rows": rows_of_images("maps", each)}


def forward_pass(name: str, images: int) -> dict[str, Any]:
    """Logits and embeddings at HIGHEST, and at the default precision for comparison."""
    network, variables = _network(name)
    arguments = (variables, uniform(images, *image_shape(name)))

    def found(variables, images):
        outputs: Any = network.apply(variables, images, train=False)
        return {"logits": outputs.logits, "embedding": outputs.embedding}

    with jax.default_matmul_precision("highest"):
        result = rows(found, *arguments)
    default = on("accelerator", lambda *given: found(*given)["logits"], *arguments)
    expected = on("cpu", lambda *given: found(*given)["logits"], *arguments)
    result["rows"].append(row("logits at the default precision", relative_errors(default, expected), None))
    return result


def training_step(name: str, images: int) -> dict[str, Any]:
    """The loss and the parameters after a training step at HIGHEST."""
    with jax.default_matmul_precision("highest"):
        jitted, state, inputs = speed_train.training_program(name, images, {})

        def found(state, *inputs):
            after, metrics = jitted(state, *inputs)
            return {
                "loss": metrics["loss"],
                "parameters": jnp.concatenate([p.ravel() for p in jax.tree.leaves(after.params)]),
            }

        return rows(found, state, *inputs)


def _network(name: str) -> tuple[OpenSetNetwork, Any]:
    network = OpenSetNetwork(NETWORKS[name](), CLASSES)
    images = jnp.zeros((1, *image_shape(name)))
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return network, jax.jit(partial(network.init, train=False))(jax.random.key(0), images)
