"""Scalars for TensorBoard, written without TensorFlow."""

import os
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

SECONDS = 2.0  # between flushes: each waits for the disk, longer than a small problem's step takes


class ScalarWriter:
    """Writes scalars to a new event file in a folder.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    """

    def __init__(self, folder: str | os.PathLike):
        Path(folder).mkdir(parents=True, exist_ok=True)
        # The suffix keeps a run that is resumed within the second from replacing the file.
        self._events = EventsWriter(os.path.join(folder, "events"), f".{time.time_ns()}")
        self._flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one value for each name at a step; on disk within `SECONDS` or at the next call."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = Event(step=step, wall_time=time.time(), summary=Summary(value=scalars))
        self._events.write_event(event)
        if time.monotonic() - self._flushed >= SECONDS:
            self._flush()

    def close(self) -> None:
        self._events.close()

    def _flush(self) -> None:
        self._events.flush()
        self._flushed = time.monotonic()
