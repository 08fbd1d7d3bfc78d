"""An encoder of a worker process that waits, before its first batch, until another has one too."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from encoder import Encoder
from encoder.batches import Job, Vectors

__all__ = ["MeetingEncoder"]


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
