from .backbones import (
    NETWORKS as NETWORKS,
)
from .backbones import (
    Classifier32 as Classifier32,
)
from .backbones import (
    ResNet as ResNet,
)
from .backbones import (
    SmallCNN as SmallCNN,
)
from .backbones import (
    WideResNet as WideResNet,
)
from .networks import (
    Classifier as Classifier,
)
from .networks import (
    ContrastiveNetwork as ContrastiveNetwork,
)
from .networks import (
    ContrastiveOutputs as ContrastiveOutputs,
)
from .networks import (
    Network as Network,
)
from .networks import (
    OpenSetNetwork as OpenSetNetwork,
)
from .networks import (
    Outputs as Outputs,
)
from .networks import (
    unit_vectors as unit_vectors,
)
from .networks import (
    zero_taps as zero_taps,
)
from .outputs import (
    network_functions as network_functions,
)
