"""Pre-training by masked tokens, after Warner et al. 2024 (arXiv 2412.13663): `latewood train mlm`.

A phase (pre-training, extension to longer texts, decay) is one run; the next one starts from its folder.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.checkpoints.folder import output_folder, write_json
from encoder.checkpoints.places import resolve_folder
from encoder.checkpoints.tokenizer_files import mask_token_name, open_tokenizer, tokenizer_config
from encoder.errors import CheckpointError
from encoder.model.config import EncoderConfig
from encoder.model.heads import MaskedLanguageModel, load_heads, read_config, save_heads
from encoder.model.packing import PackedBatch, pack
from encoder.tokenizer import LateTokenizer, TokenizerSettings
from encoder.training.configs import MlmConfig
from encoder.training.data import DataFile, Given, checked_sources
from encoder.training.distributed import average, rank, say, world_size
from encoder.training.loop import Pace, TrainingRun, claim_run, load_moments, load_weights
from encoder.training.optimiser import stable_adamw, trapezoid
from encoder.training.stream import Bin, PackedText, held_out_texts
from encoder.training.teacher import fast_matmul
from encoder.training.tiling import tile_model

Ids = npt.NDArray[np.int64]
Masked = tuple[list[list[int]], Ids]  # a bin's masked sequences, and the labels of its tokens

__all__ = ["mask_tokens", "mlm_loss", "open_model", "plain_tokenizer", "train_mlm"]

IGNORED = -100  # the label of a token that is not predicted, as F.cross_entropy has it
EVAL_RATE = 0.15  # the part masked for the held-out loss, whatever the part in training
EVAL_TEXTS = 64  # of each source
REPORT_EVERY = 20


def plain_tokenizer(path: Path) -> LateTokenizer:
    """A tokenizer as pre-training uses it: no markers, no expansion. path: tokenizer.json or its folder."""
    file = path / "tokenizer.json" if path.is_dir() else path
    tokenizer = open_tokenizer(file)
    settings = TokenizerSettings("", "", do_query_expansion=False, skiplist_words=())
    named = mask_token_name(file.parent)
    mask = named if tokenizer.token_to_id(named) is not None else "<mask>"
    return LateTokenizer(tokenizer, settings, mask_token=mask)


def open_model(config: MlmConfig) -> tuple[MaskedLanguageModel, LateTokenizer]:
    """The model before its first step: continued, tiled from a smaller one, or new, Megatron-style."""
    generator = torch.Generator().manual_seed(config.seed)
    if config.model:
        folder = resolve_folder(config.model)
        shape, tokenizer = EncoderConfig.from_hf(read_config(folder), str(folder)), plain_tokenizer(folder)
    else:
        tokenizer = plain_tokenizer(Path(config.tokenizer))
        shape = _new_shape(config, tokenizer)
    if tokenizer.expansion_id in (-1, *tokenizer.before, *tokenizer.after):
        raise CheckpointError("the tokenizer has no mask token ([MASK] or <mask>); add one to tokenizer.json")
    shape = replace(
        shape,
        max_positions=max(shape.max_positions, config.length),
        global_rope_theta=config.global_rope_theta or shape.global_rope_theta,
        local_rope_theta=config.local_rope_theta or shape.local_rope_theta,
    )
    model = MaskedLanguageModel(shape)
    model.model.recompute = config.recompute
    model.initialise(generator=generator)
    if config.model and _is_run(folder):
        load_weights(folder, model)
    elif config.model:
        load_heads(folder, model)
    elif config.tile_from:
        folder = resolve_folder(config.tile_from)
        small = MaskedLanguageModel(EncoderConfig.from_hf(read_config(folder), str(folder)))
        small.initialise(generator=generator)
        if _is_run(folder):
            load_weights(folder, small)
        else:
            load_heads(folder, small)
        tile_model(model, small)
    return model, tokenizer


def _is_run(folder: Path) -> bool:
    return (folder / "state.safetensors").is_file()


def _new_shape(config: MlmConfig, tokenizer: LateTokenizer) -> EncoderConfig:
    hidden, intermediate, layers, heads = config.shape
    if not (tokenizer.before and tokenizer.after):
        raise CheckpointError(
            "the tokenizer puts no CLS and SEP around a text; give it a post-processor that does"
        )
    pad = [tokenizer.tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>")]
    return EncoderConfig(
        vocab_size=-(-tokenizer.vocab_size // 64) * 64,  # matrix products like round sizes
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        max_positions=config.length,
        global_rope_theta=10_000.0,
        pad_id=next((i for i in pad if i is not None), tokenizer.after[-1]),
        cls_id=tokenizer.before[0],
        sep_id=tokenizer.after[-1],
    )


def mask_tokens(
    ids: Ids, tokenizer: LateTokenizer, rate: float, random: np.random.Generator
) -> tuple[Ids, Ids]:
    """(inputs, labels) of token ids (n,): `rate` of all but CLS and SEP are labelled with what they were, and
    of those 80 % are MASK, 10 % a random token, 10 % themselves (Devlin et al. 2019). Other labels: IGNORED."""
    special = np.isin(ids, [*tokenizer.before, *tokenizer.after])
    chosen = (random.random(len(ids)) < rate) & ~special
    fate = random.random(len(ids))
    inputs = np.where(chosen & (fate < 0.8), tokenizer.expansion_id, ids)
    anything = random.integers(0, tokenizer.vocab_size, len(ids))
    inputs = np.where(chosen & (fate >= 0.9), anything, inputs)
    return inputs, np.where(chosen, ids, IGNORED)


def _mask_bin(sequences: Bin, tokenizer: LateTokenizer, rate: float, seed: tuple[int, ...]) -> Masked:
    ids = np.array([i for s in sequences for i in s])
    inputs, labels = mask_tokens(ids, tokenizer, rate, np.random.default_rng(seed))
    cuts = np.cumsum([len(s) for s in sequences])[:-1]
    return [part.tolist() for part in np.split(inputs, cuts)], labels


def _collate(bins: Sequence[Masked], device: torch.device) -> tuple[PackedBatch, Tensor]:
    batch = pack([s for sequences, _ in bins for s in sequences]).to(device)
    return batch, torch.from_numpy(np.concatenate([labels for _, labels in bins])).to(device)


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross entropy of the predicted tokens: (n, vocab_size), (n,) → ()."""
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def train_mlm(
    sources: Sequence[Given],
    out: Path,
    run_folder: Path,
    config: MlmConfig,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Train on the texts of `sources` and save the model, with its head, to `out`.

    Started again with the same settings and run folder, it goes on from the last saved step to the bit. Under
    torchrun every process takes its part of each batch; the number of processes changes nothing but rounding.
    Returns held-out loss before and after (15 % masked; NaN where every source is one text), the part of the bins
    filled, and tokens a second.
    """
    files = checked_sources(sources, ".jsonl or .jsonl.gz file")
    out, run_folder = output_folder(out), output_folder(run_folder)
    model, tokenizer = open_model(config)
    device = torch.device(device)
    model.to(device).train()
    optimiser = stable_adamw(model, lr=config.lr, weight_decay=config.weight_decay)
    if config.model and _is_run(folder := resolve_folder(config.model)):
        load_moments(load_weights(folder, model), model, optimiser)
    claim_run(run_folder, config, files)
    run = TrainingRun(run_folder, model, optimiser, save_every=config.save_every)
    if rank() == 0:  # with these a run's folder is all that the next phase needs
        write_json(run_folder / "config.json", model.config.to_hf())
        (run_folder / "tokenizer.json").write_text(tokenizer.tokenizer.to_str(pretty=True), encoding="utf-8")
        write_json(run_folder / "tokenizer_config.json", tokenizer_config(model.config, tokenizer))
    text = PackedText(files, tokenizer, config.length, seed=config.seed, state=run.kept_data)
    run.data_state = text.state
    held_out = _held_out(files, tokenizer, config)

    def loss_of(bins: Sequence[Masked]) -> Tensor:
        batch, labels = _collate(bins, device)
        where = labels != IGNORED
        with fast_matmul(device):
            return mlm_loss(model(batch, where), labels[where])

    @torch.no_grad()
    def held_out_loss() -> float:
        total = sum(float(loss_of(part)) for part in _micro(held_out, config.micro_batch))
        return total / max(1, sum(_predicted(held_out)))

    pace = Pace()

    def gradients(batch: list[Bin]) -> Tensor:
        masked = [
            _mask_bin(sequences, tokenizer, config.mask_rate, (config.seed, run.step, i))
            for i, sequences in enumerate(batch)
            if i % world_size() == rank()
        ]
        # The mean over processes of sums over this is the mean over all predicted tokens, wherever they are.
        count = torch.tensor(float(sum(_predicted(masked))), device=device)
        average([count])
        loss = torch.zeros((), device=device)
        for part in _micro(masked, config.micro_batch):
            piece = loss_of(part) / count.clamp(min=1.0)
            piece.backward()  # type: ignore[no-untyped-call]
            loss += piece.detach()
        pace.tokens += sum(len(s) for sequences in batch for s in sequences)
        return loss

    before = run.at_start("held_out_loss", held_out_loss) if held_out else math.nan
    about = f"held-out loss {before:.4f} at the start" if held_out else "no text is held out"
    say(f"step {run.step}: {about}, {world_size()} process(es)")
    losses: list[float] = []
    speeds: list[float] = []

    def report(step: int, loss: float) -> bool:
        run.log(loss=loss, batch_size=config.batch_size_at(step - 1))
        losses.append(loss)
        if step % REPORT_EVERY == 0:
            speeds.append(pace.taken())
            run.log(tokens_per_second=round(speeds[-1]), filled=text.filled)
            say(
                f"step {step}/{config.steps}: loss {sum(losses) / len(losses):.4f}, {speeds[-1]:,.0f} tokens/s, "
                f"bins {100 * text.filled:.2f} % full"
            )
            losses.clear()
        with pace.paused():
            if config.checkpoint_every and step % config.checkpoint_every == 0 and rank() == 0:
                save_heads(run_folder / "checkpoints" / f"step-{step:08d}", model, tokenizer, {})
            if held_out and step % config.save_every == 0:
                value = held_out_loss()
                run.log(held_out_loss=value)
                say(f"step {step}: held-out loss {value:.4f}")
        return False

    run.train(
        config.steps,
        text.batches(config.batch_size_at, start=run.step),
        gradients,
        rate=lambda step: trapezoid(step, config.steps, config.warmup, config.decay),
        report=report,
    )
    after = run.at_end("held_out_loss", held_out_loss) if held_out else math.nan
    if rank() == 0:
        save_heads(out, model, tokenizer, {})
    return {
        "held_out_loss_before": before,
        "held_out_loss": after,
        "filled": text.filled,
        "tokens_per_second": float(np.median(speeds)) if speeds else math.nan,
    }


def _held_out(sources: Sequence[DataFile], tokenizer: LateTokenizer, config: MlmConfig) -> list[Masked]:
    """Held-out texts, cut at the length, a bin each, masked once and for all."""
    around = len(tokenizer.before) + len(tokenizer.after)
    encoded = [e.ids[: config.length - around] for e in tokenizer.encode(held_out_texts(sources, EVAL_TEXTS))]
    bins = [[[*tokenizer.before, *ids, *tokenizer.after]] for ids in encoded if ids]
    bins.sort(key=lambda sequences: len(sequences[0]))  # equal lengths side by side are one call of attention
    return [_mask_bin(b, tokenizer, EVAL_RATE, (config.seed, i)) for i, b in enumerate(bins)]


def _predicted(bins: Sequence[Masked]) -> Iterator[int]:
    return (int((labels != IGNORED).sum()) for _, labels in bins)


def _micro(bins: Sequence[Masked], size: int) -> Iterator[Sequence[Masked]]:
    return (bins[i : i + size] for i in range(0, len(bins), size))
