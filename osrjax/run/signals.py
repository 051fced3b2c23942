"""Signals that ask a run to stop after the current step."""

import itertools
import os
import signal
from types import TracebackType
from typing import Any

__all__ = ["StopSignal"]


class StopSignal:
    """Turns SIGTERM and SIGINT into a request that the training loop looks at between two steps.

    A second signal of the kind acts as if nothing were in its way. ``exit_code`` is 128 + the signal's number,
    as a shell reports it, so that a queue or an `&&` does not take a stopped run for a finished one.

    With several processes the signal may reach one of them. SIGTERM is then left to JAX's preemption service, which
    tells the others and names the step after which all stop; SIGINT goes the same way. They exit with 143, the
    process that was interrupted from the keyboard with 130.
    """

    _calls = itertools.count(1)  # of `reached` in this process: JAX compares for equality, and steps start anew

    def __init__(self) -> None:
        self._shared = False
        self.requested = False
        self.name = ""
        self.exit_code = 0
        self._previous: dict[int, Any] = {}

    def _request(self, number: int, frame: Any) -> None:
        del frame
        self.requested, self.name, self.exit_code = True, signal.Signals(number).name, 128 + number
        signal.signal(number, self._previous[number])
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)  # a notice to JAX's preemption service

    def reached(self) -> bool:
        """Whether to stop after a step: on request, and with several processes after the step that they agree on.

        With several processes all call this after every step, as often as each other.

        Returns:
          True after the last step to take.
        """
        if not self._shared:
            return self.requested
        from jax.experimental import multihost_utils

        if not multihost_utils.reached_preemption_sync_point(next(self._calls)):
            return False
        if not self.requested:  # the signal came to JAX's handler, or to another process
            self.requested, self.name, self.exit_code = True, "SIGTERM", 128 + signal.SIGTERM
        return True

    def __enter__(self) -> "StopSignal":
        import jax

        self._shared = jax.process_count() > 1
        for number in (signal.SIGINT,) if self._shared else (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._shared:  # no step is left at which the processes could agree
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
