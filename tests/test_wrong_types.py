"""What is passed to a public call is taken, or refused in one line: never an error of Python's own."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder import Encoder
from encoder.asking import Asked
from encoder.errors import LatewoodError
from indexing import Index
from retriever import Searcher
from retriever.options import Scoring, SearchOptions
from tests.helpers.fakes import DIM, FakeEncoder, record

ENCODER = FakeEncoder(DIM)
VALUES: list[Any] = [
    *(None, True, -1, 3, 2.5, float("nan"), "", "no such thing", "~nobody/at/all", b"bytes", object(), print),
    *([], [1], ["a", None], (1, 2), {}, {"a": 1}, {1}, np.zeros(3), np.zeros((40, DIM))),
]
OPTIONS = ("k", "by", "mode", "weights", "filter", "nprobe", "ncandidates", "nrerank")
SETTINGS = ("window", "overlap", "bytes_per_token", "flat_tokens", "commit_tokens", "segment_tokens", "seed")
Call = Callable[["Opened", Any], object]


class Opened:
    def __init__(self, folder: Path) -> None:
        self.folder, self._places = folder, itertools.count()
        self.index = Index.create(self.new(), ENCODER)
        self.index.add([record(0, "w1 w2"), record(1, "w3", n=3)])
        self.searcher = Searcher(self.index, ENCODER)

    def new(self) -> Path:
        return self.folder / str(next(self._places))

    def make(self, **settings: Any) -> None:
        Index.create(self.new(), ENCODER, **settings).close()

    def add(self, *, progress: Any = None, **changes: Any) -> object:
        return self.index.add([{"doc_id": "a", "text": "w1"} | changes], progress=progress)


CALLS: dict[str, Call] = {
    "search": lambda on, v: on.searcher.search(v),
    "search, options": lambda on, v: on.searcher.search("w1", v),
    **{f"search, {n}": lambda on, v, n=n: on.searcher.search("w1", **{n: v}) for n in OPTIONS},
    "search_many": lambda on, v: on.searcher.search_many(v),
    "search_many, a query": lambda on, v: on.searcher.search_many({"q": v}),
    "search_stream": lambda on, v: list(on.searcher.search_stream(v)),
    "search_embeddings": lambda on, v: on.searcher.search_embeddings(v),
    "recall_vs_exact": lambda on, v: on.searcher.recall_vs_exact(v),
    "encode": lambda on, v: on.searcher.encode(v),
    "Scoring.idf": lambda on, v: Scoring(idf=v),
    "Scoring.sharpness": lambda on, v: Scoring(sharpness=v),
    "Searcher": lambda on, v: Searcher(v, ENCODER),
    "Searcher, encoder": lambda on, v: Searcher(on.index, v),
    "Searcher, scoring": lambda on, v: Searcher(on.index, ENCODER, scoring=v).search("w1"),
    "Searcher, device": lambda on, v: Searcher(on.index, ENCODER, device=v),
    "Searcher.open": lambda on, v: Searcher.open(v),
    "Index.open": lambda on, v: Index.open(v),
    "Index.create": lambda on, v: Index.create(v, ENCODER).close(),
    "Index.create, encoder": lambda on, v: Index.create(on.new(), v),
    "Index.create, dim": lambda on, v: Index.create(on.new(), dim=v).close(),
    **{
        f"Index.create, {n}": lambda on, v, n=n: on.make(**{n: v})
        for n in (*SETTINGS, "memory", "device", "shards", "other")
    },
    "add": lambda on, v: on.index.add(v),
    "add, a record": lambda on, v: on.index.add([v]),
    **{f"add, {n}": lambda on, v, n=n: on.add(**{n: v}) for n in ("doc_id", "text", "metadata", "other")},
    "add, a value": lambda on, v: on.add(metadata={"a": v}),
    "add, progress": lambda on, v: v is print or on.add(progress=v),
    "add_embeddings": lambda on, v: on.index.add_embeddings(["z"], v),
    "add_embeddings, doc_ids": lambda on, v: on.index.add_embeddings(v, [np.ones((1, DIM))]),
    "add_embeddings, texts": lambda on, v: on.index.add_embeddings(["z"], [np.ones((1, DIM))], v),
    "add_batches": lambda on, v: on.index.add_batches(v),
    "delete": lambda on, v: on.index.delete(v),
    "delete, filter": lambda on, v: on.index.delete(filter=v),
    "update_metadata": lambda on, v: on.index.update_metadata(v),
    "update_metadata, a value": lambda on, v: on.index.update_metadata({"d0": v}),
    "rename": lambda on, v: on.index.rename(v),
    "index.encode": lambda on, v: on.index.encode(v),
    "set_tuned_search": lambda on, v: on.index.set_tuned_search(v),
    "get": lambda on, v: on.index.get(v),
    "ids": lambda on, v: list(on.index.ids(v)),
    "values": lambda on, v: on.index.values(v),
    "Encoder.load": lambda on, v: Encoder.load(v),
    "Encoder.load, document_length": lambda on, v: Asked(document_length=v).settings,
    "Encoder.load, projection": lambda on, v: Asked(projection=v).projection_path,
}


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    monkeypatch.chdir(tmp_path)  # a string may be a path
    opened = Opened(tmp_path)
    yield opened
    opened.index.close()


def refusal(on: Opened, call: Call, value: Any) -> str | None:
    try:
        call(on, value)
    except LatewoodError as error:
        return str(error)
    return None


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_it_is_taken_or_refused_in_one_line(on: Opened, call: Call) -> None:
    told = [error for value in VALUES if (error := refusal(on, call, value)) is not None]
    assert told
    assert not [error for error in told if "\n" in error or len(error) > 500]


@pytest.mark.slow
def test_an_encoder_takes_no_empty_choice_for_none() -> None:
    for value in ("", [], {}):
        for name in ("precision", "device"):
            with pytest.raises(LatewoodError, match=f"{name}="):
                Encoder.load(**{name: value})  # type: ignore[arg-type]


def test_no_queries_have_no_vectors(on: Opened) -> None:
    assert len(on.searcher.encode([])) == 0
    assert SearchOptions(mode=None).mode is None
