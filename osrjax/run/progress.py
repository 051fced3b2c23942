"""How far a run is: a bar in a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

__all__ = ["Progress"]

FIRST, SHARE = 10.0, 0.05  # seconds before a plain line; later ones come after a twentieth of the time so far


class Progress:
    """Steps that were taken, with loss, accuracy, speed and the time that is left.

    Args:
      total: steps of the whole run.
      initial: steps that were taken before.
      show: False shows nothing.
    """

    def __init__(self, total: int, *, initial: int = 0, show: bool = True) -> None:
        self._bar = tqdm(total=total, initial=initial, unit="step", mininterval=0.5, disable=None if show else True)
        self._lines = show and self._bar.disable  # no terminal
        self._started = self._last = time.monotonic()
        self._total, self._initial = total, initial

    def update(self) -> None:
        """Counts a step."""
        self._bar.update()

    def show(self, step: int, values: Mapping[str, Any], *, speed: float) -> None:
        """Says what a logged step has found.

        Args:
          step: its number.
          values: of its metrics; ``loss`` and ``accuracy`` are shown where they are there.
          speed: images a second.
        """
        found = [f"{name} {values[name]:.3f}" for name in ("loss", "accuracy") if name in values]
        text = ", ".join([*found, f"{speed:.0f} images/s"])
        self._bar.set_postfix_str(text)
        now = time.monotonic()
        passed = now - self._started
        if self._lines and passed > FIRST and (step == self._total or now - self._last > max(FIRST, SHARE * passed)):
            left = passed / max(1, step - self._initial) * (self._total - step)
            ends = f", {_duration(left)} left" if step < self._total else ""
            print(f"step {step}/{self._total}: {text}{ends}", file=sys.stderr, flush=True)
            self._last = now

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


def _duration(seconds: float) -> str:
    """Seconds, minutes or hours, rounded up.

    Example:
      >>> [_duration(seconds) for seconds in (42.0, 61.0, 7300.0)]
      ['42 s', '2 min', '2.1 h']
    """
    if seconds <= 60:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds <= 3600 else f"{math.ceil(seconds / 360) / 10:.1f} h"
