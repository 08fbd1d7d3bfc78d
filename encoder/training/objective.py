"""What a retrieval step minimises: the losses of one batch, and their gradients at once or by GradCache.

A batch's queries and documents are encoded, every query is scored with every document, and the losses that have a
weight are added up: InfoNCE over the batch and its hard negatives; KL divergence or MarginMSE to the scores that the
data carry; KL to a live teacher's own MaxSim; and token distillation, which keeps the vectors where a teacher's are
while the rest pulls them apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.checkpoint import Checkpoint
from encoder.errors import ArgumentError
from encoder.packing import length_sorted_batches, pack
from encoder.tokenizer import LateTokenizer, TokenizedTexts
from encoder.training.losses import (
    contrastive_loss,
    kl_loss,
    margin_mse_loss,
    maxsim_scores,
    pooled_scores,
    same_text_mask,
    token_cosine_loss,
)
from encoder.training.pairs import Batch
from encoder.training.teacher import Teacher, fast_matmul, teacher_folder

__all__ = ["RetrievalConfig", "RetrievalLoss"]

TEACHER_TOKENS = 4096  # a forward pass of the teacher
PROJECTION_BATCHES = 8


@dataclass(frozen=True)
class RetrievalConfig:
    """document_lengths: each batch draws one, so that short and long texts are both trained, in tokens.
    temperature divides scores that are means over query tokens (`losses.maxsim_scores`) or cosines."""

    model: str = "bundled"
    similarity: str = "maxsim"  # or "pooled", for one vector a text
    steps: int = 1000
    batch_size: int = 48
    n_negatives: int = 1
    query_length: int = 64
    document_lengths: tuple[int, ...] = (128, 192, 256)
    temperature: float = 0.04
    contrastive_weight: float = 1.0
    kl_weight: float = 0.0  # to the scores in the data
    margin_weight: float = 0.0  # the same, by MarginMSE
    teacher: str = ""
    token_weight: float = 0.0  # token distillation from `teacher`
    teacher_kl_weight: float = 0.0  # KL to the MaxSim of `teacher` over the batch
    lr: float = 3e-4
    embedding_lr: float = 1e-4
    warmup: int = 50
    chunk_tokens: int = 0  # GradCache in pieces of so many tokens; 0: the batch at once
    eval_every: int = 0
    patience: int = 0  # evaluations without a better nDCG@10 before the run ends; 0: never
    seed: int = 0


@dataclass(frozen=True)
class _Texts:
    """Queries, then documents, as token ids. width: documents of each query, its positive first."""

    tokens: TokenizedTexts
    n_queries: int
    width: int
    ignored: Tensor  # (n_queries, n_documents): documents that must not count as negatives
    scores: Tensor | None  # (n_queries, width), those of the data

    @property
    def positives(self) -> Tensor:
        return torch.arange(self.n_queries) * self.width


class RetrievalLoss:
    def __init__(self, checkpoint: Checkpoint, config: RetrievalConfig, run_folder: Path) -> None:
        self.config = config
        self.model = checkpoint.model
        self.device = next(self.model.parameters()).device
        settings = checkpoint.tokenizer.settings
        self.tokenizers = [
            LateTokenizer(
                checkpoint.tokenizer.tokenizer,
                replace(settings, document_length=length, query_length=config.query_length),
            )
            for length in config.document_lengths
        ]
        self.scores = maxsim_scores if config.similarity == "maxsim" else pooled_scores
        self.teacher: Teacher | None = None
        self.projection: Tensor | None = None
        self.projection_file = run_folder / "projection.safetensors"
        if config.teacher:
            self.teacher = Teacher(teacher_folder(config.teacher), device=str(self.device))
            if checkpoint.tokenizer.tokenizer.get_vocab() != self.teacher.tokenizer.get_vocab():
                raise ArgumentError(
                    f"teacher {config.teacher!r} has another vocabulary; pass one with the model's"
                )

    def fit_projection(self, batches: Iterator[Batch]) -> None:
        """How the teacher's vectors are turned into the model's space for token distillation: the orthonormal
        map (Procrustes) that fits the model as it is, found once a run and kept in its folder."""
        if self.teacher is None or not self.config.token_weight:
            return
        if not self.projection_file.is_file():
            product = torch.zeros(self.teacher.hidden_size, self.model.dim, device=self.device)
            with torch.no_grad():
                for step, batch in enumerate(islice(batches, PROJECTION_BATCHES)):
                    texts = self._texts(batch, step)
                    product += self._teacher_vectors(texts).T @ torch.cat(
                        self._vectors(texts, self._all(texts))
                    )
            u, _, v = torch.linalg.svd(product, full_matrices=False)
            save_file({"projection": (u @ v).contiguous().cpu()}, self.projection_file)
        self.projection = load_file(self.projection_file)["projection"].to(self.device)

    def loss(self, batch: Batch, step: int) -> Tensor:
        texts = self._texts(batch, step)
        return self._loss(texts, self._vectors(texts, self._all(texts)))

    def gradients(self, batch: Batch, step: int) -> Tensor:
        """Add the loss's gradients to the model's parameters; returns the loss."""
        texts = self._texts(batch, step)
        if not self.config.chunk_tokens:
            loss = self._loss(texts, self._vectors(texts, self._all(texts)))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        # GradCache (Gao et al. 2021): the loss needs all vectors at once, their graphs need not live at once.
        pieces = list(length_sorted_batches([len(i) for i in texts.tokens.ids], self.config.chunk_tokens))
        vectors: list[Tensor] = [torch.empty(0)] * len(texts.tokens.ids)
        with torch.no_grad():
            for piece in pieces:
                for i, rows in zip(piece, self._vectors(texts, piece), strict=True):
                    vectors[i] = rows
        for rows in vectors:
            rows.requires_grad_()
        loss = self._loss(texts, vectors)
        loss.backward()  # type: ignore[no-untyped-call]
        for piece in pieces:
            again = self._vectors(texts, piece)
            torch.autograd.backward(again, [vectors[i].grad for i in piece])
        return loss.detach()

    def _texts(self, batch: Batch, step: int) -> _Texts:
        # A function of the step, so that a resumed run draws what it would have drawn.
        draw = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        tokenizer = self.tokenizers[int(torch.randint(len(self.tokenizers), (1,), generator=draw))]
        queries = tokenizer.queries(batch.queries)
        flat = [text for row in batch.documents for text in row]
        documents = tokenizer.documents(flat)
        kept = None
        if documents.kept is not None:
            kept = [[True] * len(i) for i in queries.ids] + documents.kept
        tokens = TokenizedTexts(
            queries.ids + documents.ids, queries.n_keys + documents.n_keys, kept, documents.truncated
        )
        n, width = len(batch.queries), len(batch.documents[0])
        ignored = same_text_mask(batch.queries, flat, torch.arange(n) * width)
        scores = None if batch.scores is None else torch.tensor(batch.scores)
        return _Texts(tokens, n, width, ignored, scores)

    def _all(self, texts: _Texts) -> list[int]:
        return list(range(len(texts.tokens.ids)))

    def _vectors(self, texts: _Texts, wanted: list[int]) -> list[Tensor]:
        """(tokens kept, dim) of each wanted text, in the order asked."""
        order = sorted(wanted, key=lambda i: -len(texts.tokens.ids[i]))  # equal lengths side by side
        batch = pack([texts.tokens.ids[i] for i in order], [texts.tokens.n_keys[i] for i in order])
        with fast_matmul(self.device.type):
            rows = torch.split(self.model(batch.to(self.device)), list(batch.lengths))
        of = dict(zip(order, rows, strict=True))
        return [self._kept(texts, i, of[i]) for i in wanted]

    def _kept(self, texts: _Texts, i: int, rows: Tensor) -> Tensor:
        kept = texts.tokens.kept
        return rows if kept is None else rows[torch.tensor(kept[i], device=rows.device)]

    @torch.no_grad()
    def _teacher_vectors(self, texts: _Texts) -> Tensor:
        """(kept tokens of all texts, teacher hidden), in the texts' order. Expansion tokens are left to it too:
        a teacher sees them as masks."""
        assert self.teacher is not None
        out: list[Tensor] = [torch.empty(0)] * len(texts.tokens.ids)
        for piece in length_sorted_batches([len(i) for i in texts.tokens.ids], TEACHER_TOKENS):
            batch = pack([texts.tokens.ids[i] for i in piece]).to(self.device)
            with fast_matmul(self.device.type):
                rows = torch.split(self.teacher(batch), list(batch.lengths))
            for i, own in zip(piece, rows, strict=True):
                out[i] = self._kept(texts, i, own)
        return torch.cat(out)

    def _loss(self, texts: _Texts, vectors: list[Tensor]) -> Tensor:
        config = self.config
        n = texts.n_queries
        lengths = torch.tensor([len(v) for v in vectors], device=self.device)
        flat = torch.cat(vectors)
        split = int(lengths[:n].sum())

        def all_scores(rows: Tensor, score: object = self.scores) -> Tensor:
            assert callable(score)
            found: Tensor = score(rows[:split], lengths[:n], rows[split:], lengths[n:])
            return found

        scores = all_scores(flat)  # (n_queries, n_documents)
        positives = texts.positives.to(self.device)
        ignored = texts.ignored.to(self.device)
        loss = config.contrastive_weight * contrastive_loss(scores, positives, ignored, config.temperature)
        if config.kl_weight or config.margin_weight:
            if texts.scores is None:
                raise ArgumentError(
                    "kl_weight and margin_weight need examples with scores; this source has none"
                )
            if texts.width < 2:
                raise ArgumentError(
                    "an example with scores has no negative; kl_weight and margin_weight need one"
                )
            columns = positives[:, None] + torch.arange(texts.width, device=self.device)
            own, given = scores.gather(1, columns), texts.scores.to(self.device)
            if config.kl_weight:
                loss = loss + config.kl_weight * kl_loss(own / config.temperature, given, 1.0)
            if config.margin_weight:
                loss = loss + config.margin_weight * margin_mse_loss(own / config.temperature, given)
        if self.teacher is not None:
            targets = self._teacher_vectors(texts)
            if config.token_weight:
                assert self.projection is not None
                projected = F.normalize(targets @ self.projection, dim=-1)
                loss = loss + config.token_weight * token_cosine_loss(flat, projected)
            if config.teacher_kl_weight:
                wanted = all_scores(targets, maxsim_scores)
                loss = loss + config.teacher_kl_weight * kl_loss(scores, wanted, config.temperature)
        return loss
