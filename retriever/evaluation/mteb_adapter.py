"""mteb runs its retrieval tasks on Latewood's index: mteb 2's search protocol, index then search.

    import mteb
    with MtebSearch(Encoder.load()) as model:
        result = mteb.evaluate(model, mteb.get_tasks(tasks=["NFCorpus"]))

mteb asks for 1,000 hits a query and drops self-hits itself, where a task says so.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from encoder import Encoder
from encoder.closing import Closing
from encoder.errors import ArgumentError, MissingDependencyError
from encoder.progress import Told, progress_shown
from indexing import Index
from indexing.storage.filters import written_strings
from retriever.evaluation.datasets import query_length
from retriever.evaluation.published import short_name
from retriever.hits import Hits
from retriever.options import SearchOptions
from retriever.searcher import Searcher

__all__ = ["MtebSearch"]


class MtebSearch(Closing):
    """An object of mteb's SearchProtocol. Holds the index of one task at a time, in a temporary folder."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        name: str = "latewood/latewood-mini",
        options: SearchOptions = SearchOptions(mode="late"),  # noqa: B008  (frozen)
        flat: bool = False,
    ) -> None:
        """name: under which mteb files the results, "organisation/model". options: of the searches; mteb says k.
        flat: keep vectors as float16 and score all passages."""
        if "/" not in name:
            raise ArgumentError(f"name={name!r}; mteb wants organisation/model")
        self.encoder = encoder
        self.name = name
        self.options = options
        self.flat = flat
        self._place: tempfile.TemporaryDirectory[str] | None = None
        self._searcher: Searcher | None = None

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's ModelMeta; the revision is the fingerprint of the weights."""
        try:
            from mteb.models import ModelMeta
        except ImportError as error:
            raise MissingDependencyError("mteb is not installed; pip install 'latewood[eval]'") from error

        about = {
            "name": self.name,
            "revision": self.encoder.fingerprint,
            "n_parameters": self.encoder.n_parameters,
            "max_tokens": float(self.encoder.document_length),
            "embed_dim": self.encoder.dim,
            "similarity_fn_name": "MaxSim",
            "use_instructions": False,
        }
        return ModelMeta.create_empty(overwrites=about)

    def index(
        self,
        corpus: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        **others: Any,
    ) -> None:
        """Index a task's corpus: rows with id, text and maybe title. The index of an earlier task goes."""
        self.close()
        self._place = tempfile.TemporaryDirectory(prefix="latewood-mteb-")
        path = Path(self._place.name) / "index"
        encoder = self._encoder_for(task_metadata, hf_subset)
        never: dict[str, Any] = {"flat_tokens": 1 << 40, "segment_tokens": 1 << 40} if self.flat else {}
        with Index.create(path, encoder, **never) as index:
            index.add(_passages(corpus), progress=_told(encode_kwargs))
        self._searcher = Searcher.open(path, encoder)

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Mapping[str, list[str]] | None = None,
        **others: Any,
    ) -> dict[str, dict[str, float]]:
        """{query id: {doc_id: score}}, top_k hits a query; of a reranking task, among top_ranked only."""
        if self._searcher is None:
            raise ArgumentError("there is no index; call index before search")
        texts = {str(row["id"]): _query_text(row) for row in queries}
        options = replace(self.options, k=top_k)
        if top_ranked is None:
            found = self._searcher.search_many(texts, options, progress=_told(encode_kwargs))
        else:
            found = {
                qid: self._searcher.search(text, options, filter=_among(top_ranked[qid]))
                if top_ranked.get(qid)
                else Hits()
                for qid, text in texts.items()
            }
        return {
            qid: {hit.doc_id: hit.score for hit in hits if math.isfinite(hit.score)}
            for qid, hits in found.items()
        }

    def close(self) -> None:
        """Give the index's disk space back."""
        if self._searcher is not None:
            self._searcher.close()
            self._searcher = None
        if self._place is not None:
            self._place.cleanup()
            self._place = None

    def _encoder_for(self, task_metadata: Any, subset: str) -> Encoder:
        """With the query length of BEIR's set, as `latewood evaluate` has it: see LateInteraction."""
        wanted = query_length(short_name(task_metadata.name, subset))
        settings = self.encoder.tokenizer.settings
        if settings.do_query_expansion or wanted > settings.query_length:
            return self.encoder.with_query_length(wanted)
        return self.encoder


def _passages(corpus: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in corpus:
        title = row.get("title") or ""
        yield {"doc_id": str(row["id"]), "text": f"{title} {row['text']}".strip(), "metadata": {}}


def _query_text(row: Mapping[str, Any]) -> str:
    """As mteb joins them: the instruction after the text, the turns of a conversation in one."""
    text = row["text"]
    if not isinstance(text, str):
        text = "; ".join(
            turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in text
        )
    return f"{text} {row.get('instruction') or ''}".strip()


def _among(doc_ids: Iterable[str]) -> str:
    return f"doc_id in ({written_strings(*doc_ids)})"


def _told(encode_kwargs: Mapping[str, Any]) -> Told | None:
    return progress_shown() if encode_kwargs.get("show_progress_bar") else None
