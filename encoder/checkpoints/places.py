"""What a user calls a model → a folder on this disk. Imports no torch."""

from pathlib import Path

from encoder.arguments import as_path
from encoder.errors import ArgumentError, CheckpointError

__all__ = ["BUNDLED", "BUNDLED_FOLDER", "resolve_folder"]

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parent.parent / "models" / "latewood-mini"


def resolve_folder(name: str | Path, revision: str | None = None) -> Path:
    """ "bundled", a folder, or a hub name ("organisation/model") → a folder on this disk."""
    folder = BUNDLED_FOLDER if str(name) == BUNDLED else as_path(name)
    if folder.is_dir() or str(name) == BUNDLED:
        if revision is not None:
            raise ArgumentError(
                f"revision={revision!r} is of a hub name, and {str(name)!r} is none; leave it out"
            )
        return folder
    text = str(name)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{text!r} is no folder and no hub name; pass a folder, 'organisation/model' or 'bundled'"
        )
    from huggingface_hub import snapshot_download  # slow to import, rarely needed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    def download(patterns: list[str]) -> Path:
        # Exports for other runtimes are as large as the model and of no use here.
        others = ["onnx/*", "openvino/*"]
        return Path(
            snapshot_download(text, revision=revision, allow_patterns=patterns, ignore_patterns=others)
        )

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.metadata"]
        folder = download(patterns)
        parts = [folder, *(path for path in folder.glob("*_Dense") if path.is_dir())]
        if not all(any(part.glob("*.safetensors")) for part in parts):
            folder = download([*patterns, "*.bin"])
        return folder
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise CheckpointError(
            f"{text!r} is no folder here and the hub did not give it ({type(error).__name__}); check the "
            f"name and the network, or run `hf download {text} --local-dir FOLDER` elsewhere and pass FOLDER"
        ) from error
