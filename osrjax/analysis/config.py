"""The fields of a configuration that say how a run is probed; scripts share them."""

import dataclasses

from osrjax.fields import check_at_most, check_not_negative

__all__ = ["ProbeConfig"]


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """What is looked at while a network trains."""

    probe_every: int = 0
    """Steps between probes (input-Jacobian norms and metrics of test images, to probe.npz), besides one
    before the first step and one after the last; 0: none. A probe costs as much as about
    2 probe_images * features / (3 batch_size) steps."""
    probe_images: int = 64
    """Known test images whose norms a probe takes, and as many unknown ones."""
    probe_pairs: int = 12
    """Pairs of known test images of different classes whose paths a probe follows."""

    def check(self) -> None:
        """Refuses numbers below 0 and endless ones; the others are refused where the images are drawn."""
        check_not_negative(self, ["probe_every"])
        check_at_most(self, {"probe_pairs": 10_000})
