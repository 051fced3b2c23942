"""TensorBoard event files, written as they come."""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osrjax import files


class Events:
    """A TensorBoard event file of one start, written as it comes.

    TensorBoard reads the files of a directory in the order of their numbers, usually seconds since 1970. Here a number
    is above all earlier ones too, so that a clock that goes back puts no file before those of earlier starts, and two
    starts within a second do not share one. (tensorboardX's own writer has a thread, which a full disk or such a clock
    ends, and which the run would then wait for without end.)
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        with files.writing(directory):
            directory.mkdir(exist_ok=True)
            found = [path.name.split(".") for path in directory.glob("events.out.tfevents.*")]
            numbers = [int(words[3]) for words in found if len(words) > 3 and words[3].isdigit()]
            number = max([int(time.time()), *(n + 1 for n in numbers)])
            self._path = directory / f"events.out.tfevents.{number:010d}.{socket.gethostname()}"
            self._file = self._path.open("xb")
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log={"status": "START"})  # voids what earlier starts wrote from it on

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the scalars of a step."""
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._write(step=step, summary=scalar(name, value))

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import masked_crc32c

        messages: Any = event_pb2  # its members are made at run time
        data = messages.Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        record = (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
        with files.writing(self._path):
            self._file.write(b"".join(record))
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with files.writing(self._path):
            self._file.close()
