from .backbones import (
    NETWORKS as NETWORKS,
    Classifier32 as Classifier32,
    FastCNN as FastCNN,
    ResNet as ResNet,
    SmallCNN as SmallCNN,
    WideResNet as WideResNet,
)
from .networks import (
    Classifier as Classifier,
    ContrastiveNetwork as ContrastiveNetwork,
    ContrastiveOutputs as ContrastiveOutputs,
    HeadName as HeadName,
    Network as Network,
    OpenSetNetwork as OpenSetNetwork,
    Outputs as Outputs,
    Reciprocal as Reciprocal,
    unit_vectors as unit_vectors,
    zero_taps as zero_taps,
)
from .outputs import (
    BatchFunction as BatchFunction,
    contrastive_functions as contrastive_functions,
    network_functions as network_functions,
)
from .table import (
    BACKBONES as BACKBONES,
    NetworkName as NetworkName,
)
