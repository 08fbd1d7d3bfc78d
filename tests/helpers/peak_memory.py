"""Peak memory of one long document through a base-shaped random ModernBERT, measured in a process of its own.

    python tests/helpers/peak_memory.py LAYERS LENGTH...

Prints a JSON object: MiB after loading, and the peak while each LENGTH is read, in turn. LAYERS 22 is the base model;
"local:3" is three layers that are all local.
"""

import json
import resource
import sys
from pathlib import Path

import torch

from encoder.model.config import EncoderConfig
from encoder.model.modernbert import ModernBert
from encoder.model.packing import pack

__all__: list[str] = []


def peak() -> float:
    """MiB, since this program began."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's getrusage begins with the peak of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # macOS counts in bytes


def main(layers: str, lengths: list[str]) -> None:
    torch.set_num_threads(1)
    kind, _, number = layers.rpartition(":")
    kinds = {"layer_types": ("sliding_attention",) * int(number)} if kind == "local" else {}
    with torch.device("meta"):  # made without storage and filled below: initialising needs memory of its own
        model = ModernBert(EncoderConfig(num_layers=int(number), **kinds))
    model.to_empty(device="cpu")
    with torch.inference_mode():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                for row in parameter.split(1024):
                    row.normal_(std=0.02)
        model(pack([[5] * 200]))  # libraries take their buffers
        peaks = [peak()]
        for length in map(int, lengths):
            model(pack([[5 + i % 1000 for i in range(length)]]))
            peaks.append(peak())
    print(json.dumps({"loaded": peaks[0], "peaks": peaks[1:]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
