from .bootstrap import (
    bootstrap_interval as bootstrap_interval,
    bootstrap_intervals as bootstrap_intervals,
)
from .comparisons import (
    Comparison as Comparison,
    holm as holm,
    paired_comparison as paired_comparison,
    power as power,
    splits_needed as splits_needed,
)
from .detection import (
    aupr_known_positive as aupr_known_positive,
    aupr_unknown_positive as aupr_unknown_positive,
    auroc as auroc,
    closed_set_accuracy as closed_set_accuracy,
    davies_bouldin as davies_bouldin,
    detection_accuracy as detection_accuracy,
    fpr_at_95_tpr_known_positive as fpr_at_95_tpr_known_positive,
    fpr_at_95_tpr_unknown_positive as fpr_at_95_tpr_unknown_positive,
    jacobian_norm_difference as jacobian_norm_difference,
    macro_f1 as macro_f1,
    open_set_metrics as open_set_metrics,
    oscr as oscr,
    oscr_curve as oscr_curve,
    rejected as rejected,
    rejection_threshold as rejection_threshold,
    roc_curve as roc_curve,
)
from .effects import (
    ACCURACY as ACCURACY,
    NO_RUN as NO_RUN,
    claim_verdict as claim_verdict,
    curvature as curvature,
    detectable as detectable,
    effect as effect,
    half_change as half_change,
    inner_peaks as inner_peaks,
    linear_correlation as linear_correlation,
    log_ratio as log_ratio,
    peak as peak,
    rank_correlation as rank_correlation,
    role_effect as role_effect,
)
from .intervals import (
    SHARE as SHARE,
    SIGNED as SIGNED,
    Estimate as Estimate,
    Range as Range,
    clipped as clipped,
    paired_difference as paired_difference,
    range_of as range_of,
    t_interval as t_interval,
)
from .ranking import (
    ScoreCounts as ScoreCounts,
    ranking_metrics as ranking_metrics,
    score_counts as score_counts,
)
