"""What reaches the terminal: text, and none of the codes with which text from elsewhere could steer it."""

import errno
import functools
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, ParamSpec

__all__ = ["plain_output", "until_closed"]

Words = ParamSpec("Words")

# Control characters but tab, line feed and carriage return (of a progress bar), and those that turn the direction.
_CODES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class _PlainStream:
    """A stream that shows the codes instead of sending them."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_CODES.sub(lambda code: ascii(code[0])[1:-1], text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_output() -> Generator[None]:
    """Within, what is printed shows control codes instead of sending them, and a warning is a line without code.

    Class names and tables come from files.
    """
    out: Any = _PlainStream(sys.stdout)
    err: Any = _PlainStream(sys.stderr)
    module: Any = warnings
    usual, module.formatwarning = module.formatwarning, _one_line
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        module.formatwarning = usual


def _one_line(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning for who gave a command, without the line of code that says it."""
    del category, filename, lineno, line
    return f"warning: {' '.join(str(message).splitlines())}\n"


def until_closed(work: Callable[Words, int]) -> Callable[Words, int]:
    """Ends work quietly where nobody reads its output any more, as in ``train.py | head``, or from the start on.

    Args:
      work: prints, and returns an exit code.

    Returns:
      The same; where the reader is gone it gives 141, as of a process that SIGPIPE has ended, and where the disk that
      its output goes to is full, 1 after a line that says so.
    """

    @functools.wraps(work)
    def ended(*words: Words.args, **options: Words.kwargs) -> int:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by `>&-`
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (to the end of the process)
        try:
            try:
                return work(*words, **options)
            finally:
                print(end="", flush=True)
        except BrokenPipeError:
            _send_nowhere(sys.stdout, sys.stderr)
            return 128 + signal.SIGPIPE
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _send_nowhere(sys.stdout)
            with suppress(OSError):
                print(
                    f"the output cannot be written ({error.strerror}): make room or send it elsewhere", file=sys.stderr
                )
            return 1

    return ended


def _send_nowhere(*streams: Any) -> None:
    """What they still hold and get is thrown away: Python flushes them once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
