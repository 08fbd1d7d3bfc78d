"""SearchOptions and Scoring: what each field takes, and the one line that says what it does not."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from encoder import TokenEmbeddings
from encoder.errors import ArgumentError
from indexing import Index
from retriever import Scoring, Searcher, SearchOptions
from tests.helpers.fakes import DIM, FakeEncoder, corpus


@pytest.mark.parametrize("name", ["k", "nprobe", "ncandidates", "nrerank"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "{name}=0; pass {name} >= 1"),
        (-1, "{name}=-1; pass {name} >= 1"),
        (np.int64(-1), "{name}=-1; pass {name} >= 1"),
        (3.0, "{name}=3.0 is float; pass an integer"),
        ("3", "{name}='3' is str; pass an integer"),
        (True, "{name}=True is bool; pass an integer"),
        ([3], "{name}=[3] is list; pass an integer"),
    ],
)
def test_numbers_are_integers_from_1_on(name: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        SearchOptions(**{name: value})
    assert str(refused.value) == message.format(name=name)


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint8])
def test_integers_of_numpy_are_integers(kind: Any) -> None:
    options = SearchOptions(k=kind(3), nprobe=kind(4), ncandidates=kind(50), nrerank=kind(20))
    assert options == SearchOptions(3, nprobe=4, ncandidates=50, nrerank=20)
    assert {type(value) for value in (options.k, options.nprobe, options.ncandidates)} == {int}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": None}, "k=None is NoneType; pass an integer"),
        ({"mode": "bm25"}, "mode='bm25'; pass one of late, lexical, hybrid"),
        ({"mode": 3}, "mode=3; pass one of late, lexical, hybrid"),
        ({"mode": ["late"]}, "mode=['late']; pass one of late, lexical, hybrid"),
        ({"by": "window"}, "by='window'; pass one of document, passage"),
        (
            {"by": "passage", "mode": "lexical"},
            'by="passage" with mode="lexical"; words rank documents: pass by="document"',
        ),
        (
            {"by": "passage", "mode": "hybrid"},
            'by="passage" with mode="hybrid"; words rank documents: pass by="document"',
        ),
        ({"filter": 3}, "filter=3 is int; pass a string"),
        ({"mode": "lexical", "nprobe": 3}, 'nprobe=3 does nothing in mode "lexical"; leave it out'),
        ({"mode": "lexical", "nrerank": 30}, 'nrerank=30 does nothing in mode "lexical"; leave it out'),
        (
            {"mode": "late", "weights": (1, 1)},
            'weights=(1, 1) does nothing in mode "late"; pass mode="hybrid"',
        ),
        ({"mode": "hybrid", "weights": 2}, "weights is int; pass a list of numbers"),
        ({"mode": "hybrid", "weights": "11"}, "weights is the string '11'; pass a list of numbers"),
        (
            {"mode": "hybrid", "weights": (1, 2, 3)},
            "weights=(1, 2, 3); pass two numbers >= 0, for late and lexical, not both 0",
        ),
        ({"mode": "hybrid", "weights": ("1", 1)}, "weights[0]='1' is str; pass a number"),
        ({"mode": "hybrid", "weights": (1, math.inf)}, "weights[1]=inf; pass a finite number"),
        (
            {"mode": "hybrid", "weights": (-1, 2)},
            "weights=(-1, 2); pass two numbers >= 0, for late and lexical, not both 0",
        ),
        (
            {"mode": "hybrid", "weights": (0, 0)},
            "weights=(0, 0); pass two numbers >= 0, for late and lexical, not both 0",
        ),
    ],
)
def test_what_cannot_work_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        SearchOptions(**arguments)
    assert str(refused.value) == message


def test_weights_become_a_pair_of_floats() -> None:
    options = SearchOptions(mode="hybrid", weights=[np.float32(0.5), 2])  # type: ignore[arg-type, list-item]
    assert options.weights == (0.5, 2.0)
    assert options == SearchOptions(mode="hybrid", weights=(0.5, 2.0))
    assert hash(options) == hash(SearchOptions(mode="hybrid", weights=(0.5, 2.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"idf": 1}, "idf=1 is int; pass True or False"),
        ({"idf": None}, "idf=None is NoneType; pass True or False"),
        ({"sharpness": -1}, "sharpness=-1"),
        ({"sharpness": 21}, "sharpness=21"),
        ({"sharpness": math.nan}, "sharpness=nan"),
        ({"sharpness": "2"}, "sharpness='2'"),
    ],
)
def test_scoring_refuses_what_it_cannot_use(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        Scoring(**arguments)
    assert str(refused.value).startswith(message)
    assert "pass" in str(refused.value)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("options") / "x"
    encoder = FakeEncoder(DIM)
    with Index.create(folder, encoder, flat_tokens=300) as index:
        index.add(corpus(60))
    with Searcher.open(folder, encoder) as searcher:
        yield searcher


ASK = {
    "search": lambda searcher, *given, **more: searcher.search("w1 w2", *given, **more),
    "search_many": lambda searcher, *given, **more: searcher.search_many({"": "w1 w2"}, *given, **more)[""],
    "search_stream": lambda searcher, *given, **more: next(
        searcher.search_stream([("", "w1 w2")], *given, **more)
    )[1],
    "search_embeddings": lambda searcher, *given, **more: searcher.search_embeddings(
        np.eye(DIM)[:2], *given, **more
    ),
    "recall_vs_exact": lambda searcher, *given, **more: searcher.recall_vs_exact({"": "w1"}, *given, **more),
    "settings": lambda searcher, *given, **more: searcher.settings(*given, **more),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_a_keyword_that_is_no_option_names_the_nearest(searcher: Searcher, ask: Any) -> None:
    for wrong, meant in (
        ("top_k", "k"),
        ("nprob", "nprobe"),
        ("filters", "filter"),
        ("where", "filter"),
        ("limit", "k"),
    ):
        with pytest.raises(ArgumentError) as refused:
            ask(searcher, **{wrong: 3})
        assert str(refused.value) == f"{wrong} is no option of SearchOptions; did you mean {meant}?"
    with pytest.raises(
        ArgumentError, match="zzz is no option of SearchOptions; there are by, filter, k, mode, "
    ):
        ask(searcher, zzz=3)
    with pytest.raises(ArgumentError, match="k=0; pass k >= 1"):
        ask(searcher, k=0)
    for wrong in (3, "late", None, {"k": 3}):
        with pytest.raises(ArgumentError, match=r"options is .*; pass SearchOptions, or its fields by name"):
            ask(searcher, wrong)


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_options_and_keywords_mean_the_same(searcher: Searcher, ask: Any) -> None:
    options = SearchOptions(k=3, nprobe=2, ncandidates=30, nrerank=10)
    as_keywords = {
        f.name: value for f in dataclasses.fields(options) if (value := getattr(options, f.name)) != f.default
    }
    assert as_keywords == {"k": 3, "nprobe": 2, "ncandidates": 30, "nrerank": 10}
    assert ask(searcher, options) == ask(searcher, **as_keywords)
    assert ask(searcher, options, nprobe=4) == ask(searcher, **as_keywords | {"nprobe": 4})
    assert ask(searcher, options, k=np.int64(2)) == ask(searcher, **as_keywords | {"k": 2})


def test_vectors_alone_have_no_words(searcher: Searcher) -> None:
    for mode in ("lexical", "hybrid"):
        with pytest.raises(ArgumentError, match=f'mode="{mode}" needs a text; use search'):
            searcher.search_embeddings(np.eye(DIM)[:1], mode=mode)


def test_vectors_may_be_lists(searcher: Searcher) -> None:
    vectors = TokenEmbeddings.from_list([np.eye(DIM, dtype=np.float32)[:2]], DIM)[0]
    assert searcher.search_embeddings(vectors.tolist()) == searcher.search_embeddings(vectors)
