from .detection import (
    aupr_known_positive as aupr_known_positive,
)
from .detection import (
    aupr_unknown_positive as aupr_unknown_positive,
)
from .detection import (
    auroc as auroc,
)
from .detection import (
    closed_set_accuracy as closed_set_accuracy,
)
from .detection import (
    davies_bouldin as davies_bouldin,
)
from .detection import (
    detection_accuracy as detection_accuracy,
)
from .detection import (
    fpr_at_95_tpr_known_positive as fpr_at_95_tpr_known_positive,
)
from .detection import (
    fpr_at_95_tpr_unknown_positive as fpr_at_95_tpr_unknown_positive,
)
from .detection import (
    jacobian_norm_difference as jacobian_norm_difference,
)
from .detection import (
    macro_f1 as macro_f1,
)
from .detection import (
    open_set_metrics as open_set_metrics,
)
from .detection import (
    oscr as oscr,
)
from .detection import (
    oscr_curve as oscr_curve,
)
from .detection import (
    rejection_threshold as rejection_threshold,
)
from .detection import (
    roc_curve as roc_curve,
)
from .effects import (
    ACCURACY as ACCURACY,
)
from .effects import (
    claim_verdict as claim_verdict,
)
from .effects import (
    curvature as curvature,
)
from .effects import (
    detectable as detectable,
)
from .effects import (
    effect as effect,
)
from .effects import (
    half_change as half_change,
)
from .effects import (
    inner_peaks as inner_peaks,
)
from .effects import (
    log_ratio as log_ratio,
)
from .effects import (
    peak as peak,
)
from .effects import (
    rank_correlation as rank_correlation,
)
from .effects import (
    role_effect as role_effect,
)
from .intervals import (
    Estimate as Estimate,
)
from .intervals import (
    bootstrap_interval as bootstrap_interval,
)
from .intervals import (
    bootstrap_intervals as bootstrap_intervals,
)
from .intervals import (
    paired_difference as paired_difference,
)
from .intervals import (
    t_interval as t_interval,
)
