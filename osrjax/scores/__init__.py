"""Open-set scores: one number per example, larger = more unknown.

Here stand pure functions of logits, or of features after a fit, that know no network. A number of a whole test set is a
metric: :mod:`osrjax.metrics`.
"""

from osrjax.scores.features import (
    KnnBank,
    Mahalanobis,
    class_similarities,
    fit_knn,
    fit_mahalanobis,
    knn_ratio_score,
    knn_sum_score,
    mahalanobis_distances,
    mahalanobis_score,
)
from osrjax.scores.logits import (
    cosine_score,
    energy_score,
    entropy_score,
    log_entropy_score,
    log_m_ovr_score,
    log_max_softmax_score,
    m_ovr_score,
    max_logit_score,
    max_softmax_score,
)

__all__ = [
    "KnnBank",
    "Mahalanobis",
    "class_similarities",
    "cosine_score",
    "energy_score",
    "entropy_score",
    "fit_knn",
    "fit_mahalanobis",
    "knn_ratio_score",
    "knn_sum_score",
    "log_entropy_score",
    "log_m_ovr_score",
    "log_max_softmax_score",
    "m_ovr_score",
    "mahalanobis_distances",
    "mahalanobis_score",
    "max_logit_score",
    "max_softmax_score",
]
