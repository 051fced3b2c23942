"""Contrastive training: SupCon, NT-Xent and a mixed term (GradMix or a rival), scored by neighbours in feature space.

References:
  Xu et al., "Informed Mixing", arXiv 2505.12803.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from osrjax.attribution.maps import check_layers, last_layers
from osrjax.augment.policies import POLICIES
from osrjax.augment.views import make_contrastive_augmentation, view_mixings
from osrjax.data.table import DataSet
from osrjax.evaluation.assessment import FeatureBank, fit_feature_scores, open_set_feature_scores
from osrjax.fields import check_fields
from osrjax.losses.contrastive import nt_xent_loss
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, Box, GradMix, RandomBox, ViewMixing
from osrjax.methods.method import Attributed, Method, Needs, Task
from osrjax.methods.options import ContrastOptions
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, zero_taps
from osrjax.models.outputs import contrastive_functions
from osrjax.train.objective import PyTree
from osrjax.train.optimizers import make_adam

__all__ = ["contrast"]

SPACES = ("projection", "embedding")


def contrast(options: ContrastOptions, task: Task) -> Method:
    """Contrastive training with GradMix, one of its rivals, or none.

    Args:
      options: what the user chose.
      task: what the run is about.

    Returns:
      The method. Scores are fitted to the features of the training images, in the projection and, with names that end
      in ``_embedding``, in the embedding before it.

    Raises:
      ValueError: stages that the network has not.
    """
    check_fields(options)
    options.own_hyper({})

    def make_network(dtype: DTypeLike) -> ContrastiveNetwork:
        backbone = NETWORKS[options.network](dtype=jnp.dtype(dtype))
        return ContrastiveNetwork(backbone, options.hidden, options.features)

    network = make_network(jnp.float32)
    mix = mixed_term(options, len(zero_taps(network, task.image_shape, 1)))
    augmentation = make_contrastive_augmentation(
        crop_scale=(0.2, 1.0) if options.crop else None,
        flip=DataSet().flip if options.flip is None else options.flip,
        jitter=options.jitter,
        policy=POLICIES[options.policy],
    )
    make_objective = partial(
        make_contrastive_objective,
        augmentation=augmentation,
        mix=mix,
        clean_term=options.clean_term,
        reuse_second_view=options.reuse_second_view,
        own_positive=options.own_positive,
        statistics_from=options.statistics_from,
        block_size=options.block_size,
    )
    names = ("learning_rate", "final_learning_rate", "supcon_weight", "ssl_weight", "temperature")
    hyper = {name: getattr(options, name) for name in (*names, *(mix.hyper if mix else ()))}
    hyper["schedule_steps"] = float(task.steps)
    if mix is not None and mix.attribution is not None:
        hyper["attribution_temperature"] = options.cam_temperature or options.temperature

    def outputs(variables: PyTree, images: Array) -> dict[str, Array]:
        found: Any = network.apply(variables, images, train=False)
        return {space: getattr(found, space) for space in SPACES}

    def fit(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, FeatureBank]:
        return {space: fit_feature_scores(rows, labels, classes=task.classes) for space, rows in outputs.items()}

    def scores(fitted: dict[str, FeatureBank], outputs: Mapping[str, np.ndarray]) -> dict:
        found = {}
        for space, suffix in (("projection", ""), ("embedding", "_embedding")):
            if space in outputs:  # lanes keep the projection alone
                of_space = open_set_feature_scores(fitted[space], outputs[space], neighbours=options.neighbours)
                found |= {name + suffix: values for name, values in of_space.items()}
        return found

    def attributed_loss(outputs: Any, labels: Array) -> Array:
        views = outputs.projection.reshape(2, len(labels), -1)
        temperature = options.cam_temperature or options.temperature
        return jnp.mean(nt_xent_loss(views, temperature=temperature))

    return Method(
        options=options,
        task=task,
        make_network=make_network,
        make_objective=make_objective,
        optimizer=make_adam(),
        hyper=hyper,
        functions=contrastive_functions(network),
        outputs=outputs,
        fit=fit,
        scores=scores,
        score="knn_sum",
        scored="projection",
        spaces={"davies_bouldin": "projection", "davies_bouldin_embedding": "embedding"},
        attributed=Attributed("NT-Xent", augmentation, 2, attributed_loss),
        needs=Needs(batch=2, classes=2, images=options.neighbours),
        classifier=f"{options.neighbours} nearest neighbours in the projection",
    )


def mixed_term(options: ContrastOptions, stages: int) -> ViewMixing | None:
    """The mixed term that options ask for, for a network of so many stages.

    Args:
      options: of the method.
      stages: of the network.

    Returns:
      What :func:`osrjax.methods.gradmix.make_contrastive_objective` takes.

    Raises:
      ValueError: stages that the network has not.
    """
    layers = options.cam_layers or last_layers(stages)
    check_layers(layers, stages)
    if options.mixing == "none":
        return None
    if options.mixing not in ("gradmix", "random_box"):
        return view_mixings(options.mixing_alpha)[options.mixing]
    box = Box(
        fill=options.fill,
        views=options.mask_views,
        per_image=options.per_image,
        weight=options.kept_weight,
        alpha=options.mixing_alpha,
        beta=options.mixing_beta,
    )
    if options.mixing == "random_box":
        return RandomBox(box)
    attribution = Attribution(
        layers=layers,
        sign=options.cam_sign,
        method=options.cam_method,
        aggregation=options.cam_aggregation,
        statistics=options.cam_statistics,
    )
    return GradMix(attribution, box)
