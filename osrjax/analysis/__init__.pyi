from .claims import (
    CLAIMS as CLAIMS,
    class_adjusted_norms as class_adjusted_norms,
    dynamics_effects as dynamics_effects,
    half_effects as half_effects,
    known_classes_effects as known_classes_effects,
    loss_effects as loss_effects,
    series as series,
)
from .config import (
    ProbeConfig as ProbeConfig,
)
from .costs import (
    CHIPS as CHIPS,
    PURPOSES as PURPOSES,
    Chip as Chip,
    Collective as Collective,
    StepCost as StepCost,
    break_even_batch as break_even_batch,
    collectives as collectives,
    step_cost as step_cost,
)
from .image_scores import (
    IMAGE_SCORES as IMAGE_SCORES,
    ImageScore as ImageScore,
    Limits as Limits,
    score_image_parts as score_image_parts,
)
from .jacobian_parts import (
    image_jacobian_parts as image_jacobian_parts,
)
from .maps import (
    AttributedImages as AttributedImages,
    make_attributed_images as make_attributed_images,
)
from .mechanism import (
    MECHANISM as MECHANISM,
    NearestDistances as NearestDistances,
    detector_effects as detector_effects,
    detector_scores as detector_scores,
    explained_difference as explained_difference,
    mechanism_effects as mechanism_effects,
    nearest_distances as nearest_distances,
)
from .norm_detectors import (
    NORM_DETECTORS as NORM_DETECTORS,
    NORM_PROGRAMS as NORM_PROGRAMS,
    DetectorCost as DetectorCost,
    detector_cost as detector_cost,
    image_norms as image_norms,
    norm_detector_aurocs as norm_detector_aurocs,
)
from .norms import (
    NormPlan as NormPlan,
    dataset_jacobian_norms as dataset_jacobian_norms,
    make_norm_plan as make_norm_plan,
)
from .probe import (
    PROBE_METRICS as PROBE_METRICS,
    ProbeSets as ProbeSets,
    class_distances as class_distances,
    class_means as class_means,
    join_probes as join_probes,
    make_probe as make_probe,
    probe_sets as probe_sets,
    probed_examples as probed_examples,
    write_probe as write_probe,
)
