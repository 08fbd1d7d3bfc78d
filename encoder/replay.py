"""Kernels that are launched together: for a small input a GPU waits longer for each launch than it computes."""

import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Replay", "stream_on"]

WARM_UP = 2  # runs before the recording, in which kernels are built and libraries find their memory


class Replay:
    """A function of one tensor of a fixed shape. On a GPU its kernels are recorded, once, and launched together from
    then on (a CUDA graph); elsewhere the same lines run each time.

    function: a tensor on the device → one there. It waits for nothing, and what it does follows from the tensor's
    shape alone. Where it cannot be recorded, it runs each time there too, and one line says why.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._function = function
        self._device = device
        self._lock = threading.Lock()  # the tensors below are of one call at a time
        with torch.inference_mode():
            self._here = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
            self._there = torch.zeros(shape, dtype=dtype, device=device)
            self._launch = self._recorded() if device.type == "cuda" else self._run

    @torch.inference_mode()
    def __call__(self, fill: Callable[[Tensor], object]) -> Tensor:
        """The function's tensor, on the processor. fill: puts this call's numbers into the one that it is given, which
        still holds those of the call before."""
        with self._lock:
            fill(self._here)
            self._there.copy_(self._here, non_blocking=True)
            return self._launch().cpu()  # waits, so that `_here` may be written again

    def _run(self) -> Tensor:
        return self._function(self._there)

    def _recorded(self) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            stream = stream_on(
                self._device
            )  # torch's own for recording is of the device it was first used on
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._run()
            torch.cuda.current_stream().wait_stream(stream)
            try:
                # thread_local: other threads may go on using the device.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    out = self._run()
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                warnings.warn(
                    f"kernels on {self._device} cannot be recorded ({reason}); they are launched one by one",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return self._run

        def launch() -> Tensor:
            with torch.cuda.device(self._device):
                graph.replay()
            return out

        return launch


def stream_on(device: torch.device) -> "torch.cuda.Stream":
    """A new stream of a device."""
    make: Callable[[torch.device], torch.cuda.Stream] = (
        torch.cuda.Stream
    )  # untyped in some of torch's releases
    return make(device)
