from . import (
    analysis as analysis,
    attribution as attribution,
    augment as augment,
    data as data,
    devices as devices,
    evaluation as evaluation,
    files as files,
    jacobian as jacobian,
    losses as losses,
    methods as methods,
    metrics as metrics,
    models as models,
    report as report,
    run as run,
    scores as scores,
    train as train,
)

__version__: str
