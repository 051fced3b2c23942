from .apply import (
    Predictions as Predictions,
)
from .apply import (
    apply_in_batches as apply_in_batches,
)
from .apply import (
    estimate_statistics as estimate_statistics,
)
from .apply import (
    evaluate as evaluate,
)
from .batches import (
    gather_batch as gather_batch,
)
from .batches import (
    make_inputs as make_inputs,
)
from .layout import (
    Layout as Layout,
)
from .layout import (
    choose_layout as choose_layout,
)
from .layout import (
    lane_mesh as lane_mesh,
)
from .layout import (
    over_lanes as over_lanes,
)
from .layout import (
    pad_lanes as pad_lanes,
)
from .objective import (
    Batch as Batch,
)
from .objective import (
    Hyper as Hyper,
)
from .objective import (
    Objective as Objective,
)
from .objective import (
    ObjectiveAux as ObjectiveAux,
)
from .optimizers import (
    Optimizer as Optimizer,
)
from .optimizers import (
    decayed_parameters as decayed_parameters,
)
from .optimizers import (
    make_adam as make_adam,
)
from .optimizers import (
    make_sgd as make_sgd,
)
from .parallel import (
    data_parallel as data_parallel,
)
from .step import (
    TrainState as TrainState,
)
from .step import (
    init_state as init_state,
)
from .step import (
    make_train_step as make_train_step,
)
from .sweep import (
    LaneInputs as LaneInputs,
)
from .sweep import (
    SharedImages as SharedImages,
)
from .sweep import (
    SweepState as SweepState,
)
from .sweep import (
    init_lanes as init_lanes,
)
from .sweep import (
    make_lane_batches as make_lane_batches,
)
from .sweep import (
    make_lane_forward as make_lane_forward,
)
from .sweep import (
    make_lane_norms as make_lane_norms,
)
from .sweep import (
    make_sweep_step as make_sweep_step,
)
from .sweep import (
    share_images as share_images,
)
from .sweep import (
    stack_hyper as stack_hyper,
)
