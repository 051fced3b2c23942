from .apply import (
    NotFiniteError as NotFiniteError,
    Predictions as Predictions,
    apply_in_batches as apply_in_batches,
    check_finite as check_finite,
    estimate_statistics as estimate_statistics,
    evaluate as evaluate,
)
from .batches import (
    gather_batch as gather_batch,
    make_inputs as make_inputs,
)
from .layout import (
    Layout as Layout,
    choose_layout as choose_layout,
    lane_mesh as lane_mesh,
    over_lanes as over_lanes,
    pad_lanes as pad_lanes,
)
from .objective import (
    Batch as Batch,
    Hyper as Hyper,
    Objective as Objective,
    ObjectiveAux as ObjectiveAux,
)
from .optimizers import (
    Optimizer as Optimizer,
    decayed_parameters as decayed_parameters,
    make_adam as make_adam,
    make_sgd as make_sgd,
)
from .parallel import (
    data_parallel as data_parallel,
)
from .step import (
    TrainState as TrainState,
    init_state as init_state,
    make_train_step as make_train_step,
)
from .sweep import (
    LaneInputs as LaneInputs,
    SharedImages as SharedImages,
    SweepState as SweepState,
    init_lanes as init_lanes,
    make_lane_batches as make_lane_batches,
    make_lane_forward as make_lane_forward,
    make_lane_norms as make_lane_norms,
    make_sweep_step as make_sweep_step,
    share_images as share_images,
    stack_hyper as stack_hyper,
)
