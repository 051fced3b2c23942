"""What figures and pages call a metric; its name in files and in the tables of a terminal is that of the function."""

__all__ = ["METRIC_TITLES", "metric_title"]

METRIC_TITLES = {
    "closed_set_accuracy": "closed-set accuracy",
    "accuracy": "closed-set accuracy",  # as a probe calls it
    "auroc": "AUROC",
    "oscr": "OSCR",
    "aupr_unknown_positive": "AUPR, unknown +",
    "aupr_known_positive": "AUPR, known +",
    "fpr_at_95_tpr_unknown_positive": "FPR95, unknown +",
    "fpr_at_95_tpr_known_positive": "FPR95, known +",
    "macro_f1": "macro F1",
    "davies_bouldin": "Davies-Bouldin index",
    "intra_distance": "distance within classes",
    "inter_distance": "distance between classes",
    "path_length": "projected path length",
    "jnd": "JND",
    "norm_known": "mean norm, known",
    "norm_unknown": "mean norm, unknown",
    "rejected_known": "rejected, known",
    "rejected_unknown": "rejected, unknown",
    "rejected_validation": "rejected, validation",
}


def metric_title(name: str) -> str:
    """A metric as figures and pages call it.

    Args:
      name: as files call it.

    Example:
      >>> metric_title("auroc"), metric_title("linear_probe")
      ('AUROC', 'linear probe')
    """
    return METRIC_TITLES.get(name, name.replace("_", " "))
