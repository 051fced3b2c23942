"""Losses: ``(outputs, labels) -> one value per example``, pure, never reduced.

Nothing here knows a network, a score or a recipe.
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

__all__ = [
    "contrastive_loss",
    "cosine_softmax_loss",
    "m_ovr_loss",
    "margin_cosines",
    "mixed_contrastive_loss",
    "nt_xent_gradient",
    "nt_xent_loss",
    "ovr_loss",
    "rotation_loss",
    "supcon_loss",
]
