"""What each part of Latewood does on a device, and why: `latewood doctor --device`."""

import importlib.util
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, version

import torch

from encoder.devices import as_device
from encoder.model.attention import branch
from encoder.model.fused import PLAIN, passes_on
from encoder.model.precision import PRECISIONS, default_precision
from encoder.on_device import free_bytes
from encoder.replay import Replay
from retriever.kernels import torch_codes

__all__ = ["facts_of"]


def facts_of(name: str) -> dict[str, str]:
    """Name and value of each fact, in the order to print. Raises ArgumentError for a device that is not there."""
    device = as_device(name)
    precision = default_precision(device)
    return {
        "device": _described(device),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}",
        "triton": _installed("triton", "its kernels are left to torch"),
        "C compiler": shutil.which("cc") or shutil.which("gcc") or "none, which Triton needs",
        "faiss": _faiss(),
        "precision": _precision(device, precision),
        "attention": branch(device),
        "encoder's kernels": _by_triton(device, precision),
        "batches": "as many tokens as memory takes" if device.type == "cuda" else "4,096 tokens a thread",
        "query alone": _alone(device),
        "building": _building(device),
        "searching": _searching(device),
    }


def _described(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device}, {torch.get_num_threads()} threads"
    about = torch.cuda.get_device_properties(device)
    return (
        f"{device}: {about.name}, compute capability {about.major}.{about.minor}, {free_bytes(device):,} bytes free of "
        f"{about.total_memory:,}"
    )


def _precision(device: torch.device, precision: str) -> str:
    if device.type != "cuda":
        return f"{precision}: half precision pays on a GPU"
    return precision if precision == "bf16" else f"{precision}: this GPU is too old for bf16"


def _installed(package: str, otherwise: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"not installed: {otherwise}"


def _faiss() -> str:
    for package in ("faiss-gpu", "faiss-cpu"):
        try:
            return f"{package} {version(package)}, which writes the files"
        except PackageNotFoundError:
            continue
    return "not installed: run: pip install 'latewood[cpu]'"


def _by_triton(device: torch.device, precision: str) -> str:
    if device.type != "cuda":
        return f"torch: {device} is no GPU"
    with torch.inference_mode(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = passes_on(torch.empty(0, device=device, dtype=PRECISIONS[precision]))
    return (
        "Triton" if found is not PLAIN else f"torch: {told[0].message if told else 'Triton is not installed'}"
    )


def _alone(device: torch.device) -> str:
    if device.type != "cuda":
        return f"kernels one by one: {device} is no GPU"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Replay(lambda numbers: numbers + 1, (1,), torch.float32, device)
    return str(told[0].message) if told else "its kernels are recorded and launched together (CUDA graphs)"


def _building(device: torch.device) -> str:
    found = "torch, where Index has device=; else FAISS on the processor"
    return (
        found
        if device.type != "cuda"
        else f"{found}; faiss-gpu's kernels are not used, which are not measured"
    )


def _searching(device: torch.device) -> str:
    if importlib.util.find_spec("triton") is None or device.type != "cuda":
        return "torch, where Searcher has device=; else compiled kernels on the processor"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch_codes._kernel(device)
    return f"torch: {told[0].message}" if told else "Triton, where Searcher has device="
