"""Encoders of worker processes that wait: for a batch of another process, or for the next batch of their own."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from encoder import Encoder
from encoder.batches import Job, Vectors

__all__ = ["MeetingEncoder", "SendingEncoder"]


class MeetingEncoder:
    """Meets the other one in a folder, where each leaves a file of its process's number."""

    def __init__(self, folder: Path, model: Path, *, device: str) -> None:
        self.folder, self.encoder = folder, Encoder.load(model, device=device)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Vectors]]:
        (self.folder / str(os.getpid())).touch()
        late = time.monotonic() + 60
        while len(list(self.folder.iterdir())) < 2:
            if time.monotonic() > late:
                raise TimeoutError("the other process has no batch")
            time.sleep(0.01)
        return self.encoder.run(jobs)


class SendingEncoder:
    """What it makes of its first batch can be pickled once it has begun on the second."""

    def __init__(self, *, device: str) -> None:
        self.begun = 0

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        for job in jobs:
            self.begun += 1
            yield job, [Sent(self, job.places[0], first=self.begun == 1)]


class Sent:
    """Arrives as a text's number and its process's."""

    def __init__(self, encoder: SendingEncoder, text: int, *, first: bool) -> None:
        self.encoder, self.text, self.first = encoder, text, first

    def __reduce__(self) -> tuple[type, tuple[list[int]]]:
        late = time.monotonic() + 30
        while self.first and self.encoder.begun < 2:
            if time.monotonic() > late:
                raise TimeoutError("nothing is computed while this is sent")
            time.sleep(0.01)
        return tuple, ([self.text, os.getpid()],)
