"""A large model's first weights from a smaller one's: layers repeated, matrices tiled (Warner et al. 2024, section
2.2.2, after Gopher and Phi), and the mean of several checkpoints."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from encoder.checkpoints.folder import output_folder
from encoder.checkpoints.tensors import read_tensors, write_tensors
from encoder.errors import ArgumentError
from encoder.model.heads import MaskedLanguageModel

__all__ = ["average_checkpoints", "tile_model", "tile_tensor"]


def tile_tensor(small: Tensor, shape: Sequence[int]) -> Tensor:
    """`small` in the middle of the larger shape, what is around it filled by going round: row j is row
    (j - margin) mod rows, and so for columns."""
    for axis, size in enumerate(shape):
        have = small.shape[axis]
        if size < have:
            raise ArgumentError(
                f"tiling gives {tuple(shape)} from {tuple(small.shape)}; the new model must be larger"
            )
        small = small.index_select(axis, (torch.arange(size) - (size - have) // 2) % have)
    return small


@torch.no_grad()
def tile_model(large: MaskedLanguageModel, small: MaskedLanguageModel) -> None:
    """Layer i of `large` is layer round(i * small / large) of `small`; the fused parts of Wqkv and Wi apart.

    Norms that `small` lacks (its first layer has none before attention) stay as they are.
    """
    if large.config.vocab_size != small.config.vocab_size:
        raise ArgumentError(
            f"tiling wants one vocabulary: {large.config.vocab_size} rows, the smaller model has "
            f"{small.config.vocab_size}; pass the smaller model's tokenizer"
        )
    weights = small.state_dict()
    n_small, n_large = small.config.num_layers, large.config.num_layers
    for name, parameter in large.named_parameters():
        source = name
        if name.startswith("model.layers."):
            _, _, number, rest = name.split(".", 3)
            source = f"model.layers.{min(n_small - 1, round(int(number) * n_small / n_large))}.{rest}"
        if source not in weights:
            continue
        parts = 3 if ".Wqkv." in name else 2 if ".Wi." in name else 1
        shape = (parameter.shape[0] // parts, *parameter.shape[1:])
        parameter.copy_(torch.cat([tile_tensor(w, shape) for w in weights[source].chunk(parts)]))


def average_checkpoints(folders: Sequence[Path], out: Path) -> None:
    """The mean of the folders' weights, with the last folder's other files, to `out`."""
    if len(folders) < 2:
        raise ArgumentError(f"{len(folders)} checkpoint has no average; pass at least two")
    for folder in folders:
        if not (folder / "model.safetensors").is_file():
            raise ArgumentError(f"{folder} has no model.safetensors; pass the folders of saved models")
    out = output_folder(out)
    last = folders[-1]
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise ArgumentError(f"{out} is one of the models; pass another folder for their mean")
    kinds = [sorted(str(path.relative_to(f)) for path in f.rglob("*.safetensors")) for f in folders]
    for folder, files in zip(folders, kinds, strict=True):
        if files != kinds[-1]:
            raise ArgumentError(
                f"{folder} holds {', '.join(files)} and {last} {', '.join(kinds[-1])}; average models of one kind"
            )
    shutil.copytree(last, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    for path in sorted(last.rglob("*.safetensors")):
        final = read_tensors(path)
        total = {
            name: value.double() for name, value in final.items()
        }  # so that the order of many does not matter
        for folder in folders[:-1]:
            other = read_tensors(folder / path.relative_to(last))
            shapes = ({n: v.shape for n, v in weights.items()} for weights in (final, other))
            if next(shapes) != next(shapes):
                raise ArgumentError(f"{folder} and {last} hold models of different shapes; average one run's")
            for name, value in other.items():
                total[name] += value.double()
        mean = {name: (value / len(folders)).to(final[name].dtype) for name, value in total.items()}
        write_tensors(out / path.relative_to(last), mean, {"format": "pt"})
