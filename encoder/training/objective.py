"""What a retrieval step minimises: the losses of one batch, and their gradients at once or by GradCache.

A batch's queries and documents are encoded, every query is scored with every document, and the losses that have a
weight are added up: InfoNCE over the batch and its hard negatives; KL divergence or MarginMSE to the scores that the
data carry; KL to a live teacher's own order; and token distillation, which keeps the vectors where a teacher's are
while the rest pulls them apart.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.checkpoints.loading import Checkpoint
from encoder.checkpoints.tensors import read_tensors, write_tensors
from encoder.errors import ArgumentError
from encoder.model.packing import length_sorted_batches, pack
from encoder.on_device import free_bytes
from encoder.tokenizer import LateTokenizer, TokenizedTexts
from encoder.training.configs import RetrievalConfig
from encoder.training.distributed import first_says, gather_rows, rank, wait_for_all, world_size
from encoder.training.losses import (
    contrastive_loss,
    kl_loss,
    margin_mse_loss,
    maxsim_scores,
    pooled_scores,
    same_text_mask,
    standardised,
    token_cosine_loss,
)
from encoder.training.pairs import Batch
from encoder.training.teacher import Teacher, fast_matmul, teacher_folder

__all__ = ["RetrievalLoss"]

TEACHER_TOKENS = 4096  # a forward pass of the teacher
PROJECTION_BATCHES = 8
PROBED = 8  # texts by which memory is measured
SHARE = 0.5  # of the free memory, for graphs; the loss and the way back want some too
LEAST_IDF = 0.3  # as in the search


@dataclass(frozen=True)
class _Texts:
    """Queries, then documents, as token ids. width: documents of each query, its positive first."""

    tokens: TokenizedTexts
    n_queries: int
    width: int
    ignored: Tensor  # (n_queries, n_documents): documents that must not count as negatives
    scores: Tensor | None  # (n_queries, width), those of the data
    labelled: bool

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
        self._fits: int | None = None
        self.teacher: Teacher | None = None
        self.projection: Tensor | None = None
        self.idf: Tensor | None = None  # (vocab_size,), where query tokens are weighted
        added = checkpoint.tokenizer.tokenizer.get_added_tokens_decoder()
        self.special_ids = torch.tensor(sorted(i for i, token in added.items() if token.special))
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
        if first_says(not self.projection_file.is_file(), self.device):
            product = torch.zeros(self.teacher.hidden_size, self.model.dim, device=self.device)
            with torch.no_grad():
                for step, batch in enumerate(islice(batches, PROJECTION_BATCHES)):
                    texts = self._texts(batch, step)
                    own = self._vectors(texts, self._shares(texts)[rank()])
                    vectors = torch.cat(self._gathered(texts, own, self.model.dim))
                    product += F.normalize(self._teacher_vectors(texts), dim=-1).T @ vectors
            u, _, v = torch.linalg.svd(product, full_matrices=False)
            if rank() == 0:
                write_tensors(self.projection_file, {"projection": (u @ v).cpu()})
            wait_for_all()
        kept = read_tensors(self.projection_file, "delete it, and it is made again")
        self.projection = kept["projection"].to(self.device)

    def fit_idf(self, documents: Sequence[str]) -> None:
        """Weights of query tokens, the square root of each token's IDF, from a sample of the training texts."""
        if not self.config.idf:
            return
        found_in = torch.zeros(self.tokenizers[0].tokenizer.get_vocab_size(with_added_tokens=True))
        for ids in self.tokenizers[-1].documents(list(documents)).ids:
            found_in[torch.tensor(sorted(set(ids)))] += 1
        idf = torch.log((len(documents) + 1) / (found_in + 1))
        self.idf = idf.clamp_min(LEAST_IDF).sqrt()

    def loss(self, batch: Batch, step: int) -> Tensor:
        texts = self._texts(batch, step)
        own = self._vectors(texts, self._shares(texts)[rank()])
        return self._loss(texts, self._gathered(texts, own, self.model.dim))

    def gradients(self, batch: Batch, step: int) -> tuple[Tensor, int]:
        """Add the loss's gradients to the model's parameters; returns the loss, and the tokens of the whole batch.

        Of several processes each encodes its share and has the loss on all vectors of the batch; the mean over
        processes of what they add is the gradient.
        """
        texts = self._texts(batch, step)
        own = self._shares(texts)[rank()]
        # GradCache (Gao et al. 2021): the loss needs all vectors at once, their graphs need not live at once.
        lengths = [len(texts.tokens.ids[i]) for i in own]
        budget = self.config.chunk_tokens or self._room(texts, own)
        cached = sum(lengths) > budget
        pieces = [own]
        if cached:
            pieces = [[own[j] for j in piece] for piece in length_sorted_batches(lengths, budget)]
        made: dict[int, Tensor] = {}
        with torch.set_grad_enabled(not cached):
            for piece in pieces:
                made.update(zip(piece, self._vectors(texts, piece), strict=True))
        vectors = self._gathered(texts, [made[i].detach() for i in own], self.model.dim)
        for i in own:
            vectors[i].requires_grad_()
        loss = self._loss(texts, vectors)
        loss.backward()  # type: ignore[no-untyped-call]
        for piece in pieces:
            graphs = self._vectors(texts, piece) if cached else [made[i] for i in piece]
            found = [vectors[i].grad for i in piece]
            torch.autograd.backward(graphs, [None if g is None else g * world_size() for g in found])
        return loss.detach(), sum(map(len, texts.tokens.ids))

    def _room(self, texts: _Texts, own: list[int]) -> int:
        """Tokens whose graphs live at once, by what those of a few texts took; measured at the first step, before
        there are gradients and moments, whose room is left free."""
        if self._fits is None:
            self._fits = sys.maxsize
            if self.device.type == "cuda" and own:
                some = sorted(own, key=lambda i: -len(texts.tokens.ids[i]))[:PROBED]
                before = torch.cuda.memory_allocated(self.device)
                graphs = self._vectors(texts, some)
                held = torch.cuda.memory_allocated(self.device) - before
                del graphs
                a_token = max(held, 1) / sum(len(texts.tokens.ids[i]) for i in some)
                to_come = 3 * sum(p.numel() * p.element_size() for p in self.model.parameters())
                self._fits = max(1, int(SHARE * (free_bytes(self.device) - to_come) / a_token))
        return self._fits

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
        return _Texts(tokens, n, width, ignored, scores, batch.labelled)

    def _shares(self, texts: _Texts) -> list[list[int]]:
        """The texts that each process encodes: dealt out by length, so that all have as much to do."""
        ids = texts.tokens.ids
        longest_first = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        return [sorted(longest_first[r :: world_size()]) for r in range(world_size())]

    def _gathered(self, texts: _Texts, own: list[Tensor], dim: int) -> list[Tensor]:
        """Every text's vectors, (tokens kept, dim) each in the texts' order, from this process's own."""
        if world_size() == 1:
            return own
        kept = texts.tokens.kept
        counts = [len(ids) for ids in texts.tokens.ids] if kept is None else [sum(k) for k in kept]
        shares = self._shares(texts)
        rows = torch.cat([torch.empty(0, dim, device=self.device), *own])
        out: list[Tensor] = [torch.empty(0)] * len(counts)
        for share, part in zip(
            shares, gather_rows(rows, [sum(counts[i] for i in share) for share in shares]), strict=True
        ):
            for i, vectors in zip(share, torch.split(part, [counts[i] for i in share]), strict=True):
                out[i] = vectors.detach()
        return out

    def _vectors(self, texts: _Texts, wanted: list[int]) -> list[Tensor]:
        """(tokens kept, dim) of each wanted text, in the order asked."""
        if not wanted:  # fewer texts than processes
            return []
        order = sorted(wanted, key=lambda i: -len(texts.tokens.ids[i]))  # equal lengths side by side
        batch = pack([texts.tokens.ids[i] for i in order], [texts.tokens.n_keys[i] for i in order])
        with fast_matmul(self.device):
            rows = torch.split(self.model(batch.to(self.device)), list(batch.lengths))
        of = dict(zip(order, rows, strict=True))
        return [self._kept(texts, i, of[i]) for i in wanted]

    def _kept(self, texts: _Texts, i: int, rows: Tensor) -> Tensor:
        kept = texts.tokens.kept
        return rows if kept is None else rows[torch.tensor(kept[i], device=rows.device)]

    @torch.no_grad()
    def _teacher_vectors(self, texts: _Texts) -> Tensor:
        """(kept tokens of all texts, teacher hidden), in the texts' order, not normalised. Expansion tokens are
        left to it too: a teacher sees them as masks."""
        assert self.teacher is not None
        own = self._shares(texts)[rank()]
        out: list[Tensor] = [torch.empty(0)] * len(own)
        for piece in length_sorted_batches([len(texts.tokens.ids[i]) for i in own], TEACHER_TOKENS):
            batch = pack([texts.tokens.ids[own[j]] for j in piece]).to(self.device)
            with fast_matmul(self.device):
                rows = torch.split(self.teacher.hidden(batch), list(batch.lengths))
            for j, vectors in zip(piece, rows, strict=True):
                out[j] = self._kept(texts, own[j], vectors)
        return torch.cat(self._gathered(texts, out, self.teacher.hidden_size))

    def _loss(self, texts: _Texts, vectors: list[Tensor]) -> Tensor:
        config = self.config
        n = texts.n_queries
        lengths = torch.tensor([len(v) for v in vectors], device=self.device)
        flat = torch.cat(vectors)
        split = int(lengths[:n].sum())

        def all_scores(score: Callable[..., Tensor], rows: Tensor, *weights: Tensor) -> Tensor:
            return score(rows[:split], lengths[:n], rows[split:], lengths[n:], *weights)

        weights = [] if self.idf is None else [self._query_weights(texts)]
        scores = all_scores(self.scores, flat, *weights)  # (n_queries, n_documents)
        positives = texts.positives.to(self.device)
        loss = torch.zeros((), device=self.device)
        if texts.labelled:
            ignored = texts.ignored.to(self.device)
            contrastive = contrastive_loss(scores, positives, ignored, config.temperature)
            loss = loss + config.contrastive_weight * contrastive
        if texts.labelled and (config.kl_weight or config.margin_weight):
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
            hidden = self._teacher_vectors(texts)
            targets = F.normalize(hidden, dim=-1)
            if config.token_weight:
                assert self.projection is not None
                projected = F.normalize(targets @ self.projection, dim=-1)
                loss = loss + config.token_weight * token_cosine_loss(flat, projected)
            if config.teacher_kl_weight and not (config.unlabelled and texts.labelled):
                wanted = standardised(all_scores(maxsim_scores, targets, *weights))
                if config.teacher_pooled:
                    pooled = standardised(all_scores(pooled_scores, hidden))
                    wanted = standardised(wanted + config.teacher_pooled * pooled)
                judged = kl_loss(standardised(scores), wanted, 1 / config.teacher_sharpness)
                loss = loss + config.teacher_kl_weight * judged
        return loss

    def _query_weights(self, texts: _Texts) -> Tensor:
        """(kept query tokens,): those of each query at a mean of 1, markers and expansion tokens at 1."""
        assert self.idf is not None
        out = []
        for i in range(texts.n_queries):
            ids = self._kept(texts, i, torch.tensor(texts.tokens.ids[i]))
            weights = self.idf[ids]
            known = ~torch.isin(ids, self.special_ids)
            mean = weights[known].mean() if known.any() else weights.new_ones(())
            out.append(torch.where(known, weights / mean, torch.ones_like(weights)))
        return torch.cat(out).to(self.device)
