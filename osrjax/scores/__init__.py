"""Open-set scores: one number per example, larger = more unknown.

Here stand pure functions of three kinds of input: logits; features or logits, after a fit to those of known training
images; a function and its images. None knows a network. A number of a whole test set is a metric:
:mod:`osrjax.metrics`.
"""

from osrjax.scores.features import (
    KnnBank,
    Mahalanobis,
    RelativeMahalanobis,
    class_similarities,
    fit_knn,
    fit_mahalanobis,
    fit_relative_mahalanobis,
    knn_ratio_score,
    knn_sum_score,
    kth_neighbour_score,
    mahalanobis_distances,
    mahalanobis_score,
    neighbour_cosines,
    relative_mahalanobis_score,
)
from osrjax.scores.functions import jacobian_estimate_score, jacobian_norm_score, odin_score
from osrjax.scores.heads import (
    Head,
    Vim,
    fit_react,
    fit_vim,
    gradient_norm_score,
    react_score,
    vim_score,
)
from osrjax.scores.logits import (
    cosine_score,
    energy_score,
    entropy_score,
    generalised_entropy_score,
    log_cac_score,
    log_entropy_score,
    log_m_ovr_score,
    log_max_softmax_score,
    m_ovr_score,
    max_logit_score,
    max_softmax_score,
)
from osrjax.scores.openmax import OpenMax, fit_openmax, openmax_score

__all__ = [
    "Head",
    "KnnBank",
    "Mahalanobis",
    "OpenMax",
    "RelativeMahalanobis",
    "Vim",
    "class_similarities",
    "cosine_score",
    "energy_score",
    "entropy_score",
    "fit_knn",
    "fit_mahalanobis",
    "fit_openmax",
    "fit_react",
    "fit_relative_mahalanobis",
    "fit_vim",
    "generalised_entropy_score",
    "gradient_norm_score",
    "jacobian_estimate_score",
    "jacobian_norm_score",
    "knn_ratio_score",
    "knn_sum_score",
    "kth_neighbour_score",
    "log_cac_score",
    "log_entropy_score",
    "log_m_ovr_score",
    "log_max_softmax_score",
    "m_ovr_score",
    "mahalanobis_distances",
    "mahalanobis_score",
    "max_logit_score",
    "max_softmax_score",
    "neighbour_cosines",
    "odin_score",
    "openmax_score",
    "react_score",
    "relative_mahalanobis_score",
    "vim_score",
]
