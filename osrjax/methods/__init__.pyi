from .class_losses import (
    CLASS_LOSSES as CLASS_LOSSES,
    ClassLoss as ClassLoss,
)
from .classification import (
    classify as classify,
    make_classify_objective as make_classify_objective,
)
from .contrastive import (
    contrast as contrast,
)
from .find import (
    MethodFunction as MethodFunction,
    check_method as check_method,
    find_method as find_method,
    make_method as make_method,
    method_source as method_source,
)
from .gradmix import (
    make_contrastive_objective as make_contrastive_objective,
)
from .masked import (
    make_masked_classify_objective as make_masked_classify_objective,
)
from .masks import (
    Attribution as Attribution,
    Box as Box,
    GradMix as GradMix,
    RandomBox as RandomBox,
    ViewMixing as ViewMixing,
)
from .method import (
    Attributed as Attributed,
    Method as Method,
    Needs as Needs,
    Task as Task,
    assess as assess,
    check_data as check_data,
    check_image_shape as check_image_shape,
    predicted_classes as predicted_classes,
    score_images as score_images,
)
from .options import (
    ClassifyOptions as ClassifyOptions,
    ContrastOptions as ContrastOptions,
    ContrastWeights as ContrastWeights,
    Options as Options,
    Traced as Traced,
    options_of as options_of,
    structure_of as structure_of,
    traced_fields as traced_fields,
)
from .passes import (
    TappedPass as TappedPass,
    attribute as attribute,
    check_batch as check_batch,
    tapped_pass as tapped_pass,
    train_pass as train_pass,
)
from .table import (
    METHODS as METHODS,
    MethodName as MethodName,
)
