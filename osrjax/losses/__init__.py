"""Losses: ``(outputs, labels) -> one value per example``, pure, never reduced.

Here stand functions of arrays that know no network, no score and no recipe. Losses become training objectives in
:mod:`osrjax.methods`.
"""

from osrjax.losses.classification import (
    cosine_softmax_loss,
    m_ovr_loss,
    margin_cosines,
    ovr_loss,
    rotation_loss,
)
from osrjax.losses.contrastive import (
    contrastive_loss,
    mixed_contrastive_loss,
    nt_xent_gradient,
    nt_xent_loss,
    supcon_loss,
)
from osrjax.losses.distances import anchor_distances, arpl_loss, cac_loss, rpl_loss

__all__ = [
    "anchor_distances",
    "arpl_loss",
    "cac_loss",
    "contrastive_loss",
    "cosine_softmax_loss",
    "m_ovr_loss",
    "margin_cosines",
    "mixed_contrastive_loss",
    "nt_xent_gradient",
    "nt_xent_loss",
    "ovr_loss",
    "rotation_loss",
    "rpl_loss",
    "supcon_loss",
]
