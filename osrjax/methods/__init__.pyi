from .classify import (
    CLASS_LOSSES as CLASS_LOSSES,
)
from .classify import (
    ClassLoss as ClassLoss,
)
from .classify import (
    make_classify_objective as make_classify_objective,
)
from .gradmix import (
    GradMix as GradMix,
)
from .gradmix import (
    make_contrastive_objective as make_contrastive_objective,
)
from .gradmix import (
    make_masked_classify_objective as make_masked_classify_objective,
)
