"""The fields of a configuration that say how outputs become numbers; scripts share them."""

import dataclasses
from typing import Annotated

from osrjax.fields import Execution, check_above_zero, check_at_most, check_resamples

__all__ = ["AssessmentConfig"]


@dataclasses.dataclass(frozen=True)
class AssessmentConfig:
    """How a network is assessed."""

    eval_batch_size: Annotated[int, Execution] = 500
    """Images per evaluation call."""
    resamples: int = 1000
    """Bootstrap resamples of the 95 % intervals; 0: none."""
    reject_share: float = 0.1
    """Share of known validation images that the operating threshold rejects."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        check_above_zero(self, ["eval_batch_size"])
        check_resamples(self)
        check_at_most(self, {"eval_batch_size": 100_000})
        if not 0 < self.reject_share < 1:
            raise ValueError(f"reject_share={self.reject_share!r} must be between 0 and 1, such as 0.1")
