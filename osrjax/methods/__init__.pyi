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
    make_contrastive_objective as make_contrastive_objective,
)
from .masked import (
    make_masked_classify_objective as make_masked_classify_objective,
)
from .masks import (
    Attribution as Attribution,
)
from .masks import (
    Box as Box,
)
from .masks import (
    GradMix as GradMix,
)
from .masks import (
    RandomBox as RandomBox,
)
from .masks import (
    ViewMixing as ViewMixing,
)
