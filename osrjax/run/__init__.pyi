from .checkpoint import (
    Checkpoints as Checkpoints,
)
from .checkpoint import (
    LaneCheckpoints as LaneCheckpoints,
)
from .checkpoint import (
    Restored as Restored,
)
from .checkpoint import (
    UnreadableCheckpointsError as UnreadableCheckpointsError,
)
from .directory import (
    Run as Run,
)
from .directory import (
    open_run as open_run,
)
from .directory import (
    read_network as read_network,
)
from .directory import (
    run_name as run_name,
)
from .features import (
    Features as Features,
)
from .features import (
    make_feature_extractor as make_feature_extractor,
)
from .finished import (
    FinishedRun as FinishedRun,
)
from .finished import (
    evaluation_network as evaluation_network,
)
from .finished import (
    norm_functions as norm_functions,
)
from .finished import (
    open_finished as open_finished,
)
from .grid import (
    REPEAT as REPEAT,
)
from .grid import (
    check_finished as check_finished,
)
from .grid import (
    is_finished as is_finished,
)
from .grid import (
    run_cells as run_cells,
)
from .launch import (
    RunConfig as RunConfig,
)
from .launch import (
    SingleRunConfig as SingleRunConfig,
)
from .launch import (
    launch_run as launch_run,
)
from .launch import (
    parse as parse,
)
from .loop import (
    LoopResult as LoopResult,
)
from .loop import (
    check_profile_steps as check_profile_steps,
)
from .loop import (
    train_loop as train_loop,
)
from .provenance import (
    provenance as provenance,
)
from .signals import (
    StopSignal as StopSignal,
)
