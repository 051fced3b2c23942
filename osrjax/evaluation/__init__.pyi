from .assessment import (
    FEATURE_SCORES as FEATURE_SCORES,
    SCORES as SCORES,
    Assessment as Assessment,
    FeatureBank as FeatureBank,
    ScoredImages as ScoredImages,
    assess_scored as assess_scored,
    assess_scores as assess_scores,
    fit_feature_scores as fit_feature_scores,
    open_set_feature_scores as open_set_feature_scores,
    open_set_scores as open_set_scores,
    rejected_shares as rejected_shares,
    scored_images as scored_images,
)
from .config import (
    AssessmentConfig as AssessmentConfig,
)
from .linear_classifier import (
    PENALTIES as PENALTIES,
    LinearProbe as LinearProbe,
    linear_probe as linear_probe,
    top_accuracy as top_accuracy,
)
from .ordered import (
    OrderedImages as OrderedImages,
    metrics_of_order as metrics_of_order,
    order_images as order_images,
)
from .output_scores import (
    OUTPUT_SCORES as OUTPUT_SCORES,
    Fits as Fits,
    OutputScore as OutputScore,
    applicable_scores as applicable_scores,
    score_outputs as score_outputs,
)
from .outputs import (
    StoredOutputs as StoredOutputs,
    read_outputs as read_outputs,
)
