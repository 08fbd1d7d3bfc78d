"""Haystack's own suites, its reading of filters as the oracle, and pipelines saved and loaded."""

import inspect
import math
from datetime import datetime, timezone

import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from haystack.testing import document_store as suite
from haystack.testing import document_store_async as async_suite
from haystack.utils.filters import document_matches_filter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder import Encoder
from encoder.errors import ArgumentError
from indexing import Index
from indexing.storage.dates import read_date
from retriever import Searcher, rerank
from retriever.integrations.haystack import (
    LatewoodDocumentStore,
    LatewoodRanker,
    LatewoodRetriever,
    filter_text,
)
from retriever.integrations.haystack_filters import COMPARISONS, LOGICAL
from tests.helpers.fakes import DIM, FakeEncoder
from tests.retriever.integrations.data import DATES, KEYS, VALUES, Some, assert_all_drawn, some_documents


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load()


@pytest.fixture
def document_store(encoder, tmp_path):
    store = LatewoodDocumentStore(str(tmp_path / "x"), encoder)
    yield store
    store.close()


class TestStore(
    suite.DocumentStoreBaseExtendedTests,
    suite.CountDocumentsByFilterTest,
    suite.CountUniqueMetadataByFilterTest,
    suite.GetMetadataFieldsInfoTest,
    suite.GetMetadataFieldMinMaxTest,
    suite.GetMetadataFieldUniqueValuesTest,
):
    """All that Haystack has for document stores, but for two."""

    # There is no index to be made again: delete_all_documents has no such parameter, and these skip themselves.
    test_delete_all_documents_without_recreate_index = None
    test_delete_all_documents_with_recreate_index = None

    @pytest.fixture
    def document_store(self, document_store):
        return document_store

    def test_write_documents(self, document_store):
        """The suite leaves to each store what NONE does: here it is FAIL, as in Haystack's in-memory store."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError, match="is there already; pass OVERWRITE or SKIP"):
            document_store.write_documents([document])
        self.assert_documents_are_equal(document_store.filter_documents(), [document])


class TestAsyncStore(
    async_suite.CountDocumentsAsyncTest,
    async_suite.CountDocumentsByFilterAsyncTest,
    async_suite.CountUniqueMetadataByFilterAsyncTest,
    async_suite.DeleteAllAsyncTest,
    async_suite.DeleteByFilterAsyncTest,
    async_suite.DeleteDocumentsAsyncTest,
    async_suite.FilterDocumentsAsyncTest,
    async_suite.GetMetadataFieldMinMaxAsyncTest,
    async_suite.GetMetadataFieldUniqueValuesAsyncTest,
    async_suite.GetMetadataFieldsInfoAsyncTest,
    async_suite.UpdateByFilterAsyncTest,
    async_suite.WriteDocumentsAsyncTest,
):
    """The same, each in a loop."""

    # As in TestStore: no such parameter.
    test_delete_all_documents_without_recreate_index_async = None
    test_delete_all_documents_with_recreate_index_async = None

    async def test_write_documents_async(self, document_store):
        """As TestStore.test_write_documents."""
        document = Document(content="test doc")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])
        self.assert_documents_are_equal(await document_store.filter_documents_async(), [document])


@pytest.mark.parametrize(("module", "tests"), [(suite, TestStore), (async_suite, TestAsyncStore)])
def test_every_suite_of_haystack_is_run(module, tests):
    """Also one that a later Haystack adds."""
    theirs = [one for name, one in inspect.getmembers(module, inspect.isclass) if name.endswith("Test")]
    assert len(theirs) > 8
    assert all(issubclass(tests, one) for one in theirs)


# Filters -----------------------------------------------------------------------------------------------------

FIELDS = st.sampled_from([*(f"meta.{key}" for key in KEYS), "n", "id", "meta.o.n"])
SCALARS = VALUES | st.sampled_from([*DATES, "d7", "d8"]) | st.none()
MOMENTS = st.sampled_from([datetime(2024, 2, 29), datetime(2024, 2, 29, 1, tzinfo=timezone.utc)])
LEAVES = st.one_of(
    st.tuples(FIELDS, st.sampled_from(["==", "!="]), SCALARS),
    st.tuples(
        FIELDS,
        st.sampled_from([">", ">=", "<", "<="]),
        st.sampled_from([-1, 0, 0.5, 1, True, None, *DATES]) | MOMENTS,
    ),
    st.tuples(FIELDS, st.sampled_from(["in", "not in"]), st.lists(SCALARS, max_size=4)),
).map(lambda leaf: dict(zip(("field", "operator", "value"), leaf, strict=True)))
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda operator, parts: {"operator": operator, "conditions": parts},
        st.sampled_from(["AND", "OR", "NOT"]),
        st.lists(inner, max_size=3),
    ),
    max_leaves=6,
)


def met(filters, document):
    """By Haystack's own reading of each comparison; what it cannot compare is not met."""
    if "field" not in filters:
        some = [met(one, document) for one in filters["conditions"]]
        return {"AND": all(some), "OR": any(some), "NOT": not all(some)}[filters["operator"]]
    if filters["operator"] in (">", ">=", "<", "<="):
        value = document.meta
        for name in filters["field"].removeprefix("meta.").split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str) and read_date(value) is None:
            return False  # it would have dateutil guess: "1" is the first day of this month
    try:
        return document_matches_filter(filters, document)
    except (FilterError, TypeError):
        return False


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """500 random documents, and a store of them."""
    store = LatewoodDocumentStore(str(tmp_path_factory.mktemp("many") / "x"), FakeEncoder(DIM))
    documents = Some()
    for i, meta in enumerate(some_documents(dates=True)):
        meta |= {"o": {"n": meta.get("n")}} if i % 3 else {"o": i}
        documents.append(Document(id=f"d{i}", content="w1", meta=meta))
    assert store.write_documents(documents) == 500
    yield documents, store
    store.close()


def test_every_operator_is_drawn():
    assert_all_drawn(FILTERS, [*COMPARISONS, *LOGICAL])


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filters=FILTERS)
def test_filters_are_those_of_a_plain_loop(many, filters):
    documents, store = many
    expected = [document.id for document in documents if met(filters, document)]
    assert list(store.store.now.ids(filter_text(filters))) == expected


def nested(levels):
    filters = {"field": "meta.n", "operator": "==", "value": 1}
    for _ in range(levels):
        filters = {
            "operator": "AND",
            "conditions": [filters, {"field": "id", "operator": "!=", "value": "x"}],
        }
    return filters


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (("meta.n", "like", "x"), "operator 'like' is none that Latewood can say; pass one of ==, !=, <"),
        (("meta.n", "==", ["a"]), r"operator '==' has the value \['a'\] \(list\)"),
        (("meta.n", "!=", {"a": 1}), r"operator '!=' has the value \{'a': 1\} \(dict\)"),
        (("meta.n", "==", math.inf), "operator '==' has the value inf"),
        (("meta.n", "in", (1, 2)), r"operator 'in' has the value \(1, 2\); pass a list"),
        (("meta.n", ">", "May"), "operator '>' has the value 'May'; of strings it takes ISO dates"),
        (("content", "==", "x"), "field 'content' is none that is indexed; pass id or meta.NAME"),
        (("embedding", "!=", None), "field 'embedding' is none that is indexed"),
        (("a.b", "==", 1), "field 'a.b' is none that is indexed"),
        (("meta.", "==", 1), "the key '' cannot be named"),
        (
            {"operator": "XOR", "conditions": []},
            "operator 'XOR' is none that Latewood can say; pass one of AND, OR, NOT",
        ),
        ({"operator": "AND", "conditions": {}}, r"'conditions' are \{\}; pass a list"),
        ({"operator": "AND", "conditions": [7]}, "the filter 7 is int; pass a dict"),
        (nested(5000), "the filter is nested too deeply; pass at most 100 levels"),
        (nested(200), "expected at most 100 levels of not and parentheses"),
    ],
)
def test_what_a_filter_cannot_say_is_named(many, filters, message):
    if isinstance(filters, tuple):
        filters = dict(zip(("field", "operator", "value"), filters, strict=True))
    with pytest.raises(FilterError, match=message):
        many[1].filter_documents(filters)


# Documents ---------------------------------------------------------------------------------------------------


def test_documents_come_back_as_they_were(tmp_path):
    store = LatewoodDocumentStore(str(tmp_path / "x"), FakeEncoder(DIM))
    documents = [
        Document(
            id="a", content="w1", meta={"id": 7, "content": "x", "deep": {"y": [1, 2.5, None]}}, score=0.1
        ),
        Document(id="b", content=None, blob=ByteStream(b"\x00\xff", meta={"k": 1}, mime_type="image/png")),
        Document(id="c", content="", embedding=[0.1, -1e-300, 1 / 3]),
        Document(id="d", content="w2", sparse_embedding=SparseEmbedding([1, 5], [0.25, 0.5])),
    ]
    store.write_documents(documents)
    assert store.filter_documents() == documents
    assert store.get_metadata_fields_info() == {
        name: {"type": kind} for name, kind in [("id", "int"), ("content", "keyword"), ("deep", "keyword")]
    }
    assert store.update_by_filter({"field": "id", "operator": "==", "value": "c"}, {"n": 1}) == 1
    assert (
        store.filter_documents({"field": "meta.n", "operator": "==", "value": 1})[0].embedding
        == documents[2].embedding
    )
    store.close()
    assert store.count_documents() == 4  # opened again
    again = LatewoodDocumentStore.from_dict(store.to_dict())  # without the encoder, which the index knows
    assert (again.encoder, again.filter_documents()) == (None, store.filter_documents())
    for one in (store, again):
        one.close()
    made = LatewoodDocumentStore(str(tmp_path / "y"), FakeEncoder(DIM))
    assert (tmp_path / made.to_dict()["init_parameters"]["path"] / "index.db").is_file()
    made.close()


def test_writing_says_what_it_did(tmp_path):
    store = LatewoodDocumentStore(str(tmp_path / "x"), FakeEncoder(DIM))
    one, two, other = (Document(id=i, content=text) for i, text in [("a", "w1"), ("b", "w2"), ("a", "w3")])
    for policy in (DuplicatePolicy.NONE, DuplicatePolicy.FAIL):
        with pytest.raises(DuplicateDocumentError, match="document 'a' is there already"):
            store.write_documents([one, two, other], policy)
        assert store.count_documents() == 0
    assert store.write_documents([one, other], DuplicatePolicy.SKIP) == 1
    assert store.write_documents([two, other], DuplicatePolicy.SKIP) == 1
    assert store.filter_documents() == [one, two]
    assert store.write_documents([one, other], DuplicatePolicy.OVERWRITE) == 2
    assert store.filter_documents({"field": "id", "operator": "==", "value": "a"}) == [other]
    for wrong in (store.delete_by_filter, lambda filters: store.update_by_filter(filters, {"n": 1})):
        with pytest.raises(FilterError, match="filters is empty; pass some, or use delete_all_documents"):
            wrong({})
    with pytest.raises(ArgumentError, match="the meta key '_haystack'; give it another name"):
        store.write_documents([Document(content="x", meta={"_haystack": 1})])
    with pytest.raises(ArgumentError, match="the key '_haystack'; give it another name"):
        store.update_by_filter({"field": "id", "operator": "==", "value": "a"}, {"_haystack": 1})
    assert store.count_documents() == 2
    more = [Document(id=i, content="w1") for i in ("c", "d", "e")]
    assert store.write_documents(more, DuplicatePolicy.SKIP) == 3
    assert ids(store.filter_documents()) == ["b", "a", "c", "d", "e"]  # in the order of writing
    store.close()


# Components --------------------------------------------------------------------------------------------------

BOOKS = [
    "Parsing dates and times.",
    "Parsing dates of any form.",
    "Drawing charts of sales.",
    "The heart pumps blood.",
]


def ids(documents):
    return [document.id for document in documents]


@pytest.mark.slow
async def test_pipelines_are_saved_and_loaded(tmp_path):
    """One that writes and one that asks, each with a store of its own on the same folder."""
    path = str(tmp_path / "x")
    settings = {"window": 64, "overlap": 8}
    writing, asking = Pipeline(), Pipeline()
    writing.add_component("writer", DocumentWriter(LatewoodDocumentStore(path, settings=settings)))
    store = LatewoodDocumentStore(path, settings=settings)
    numbered = {"field": "meta.n", "operator": "<", "value": 3}
    asking.add_component(
        "retriever", LatewoodRetriever(store, filters=numbered, top_k=3, options={"mode": "hybrid"})
    )
    asking.add_component("ranker", LatewoodRanker(top_k=2))
    asking.connect("retriever.documents", "ranker.documents")
    trusted = {"allowed_modules": ["retriever.integrations.haystack"]}
    (tmp_path / "writing.yaml").write_text(writing.dumps())
    writing, again = (
        Pipeline.loads((tmp_path / "writing.yaml").read_text(), **trusted),
        Pipeline.loads(asking.dumps(), **trusted),
    )
    assert again == asking
    documents = [Document(id=f"b{i}", content=text, meta={"n": i}) for i, text in enumerate(BOOKS)]
    assert writing.run({"writer": {"documents": documents}})["writer"]["documents_written"] == 4
    asked = {"retriever": {"query": "plots"}, "ranker": {"query": "plots"}}
    found = again.run(asked)["ranker"]["documents"]
    assert (
        found
        == asking.run(asked)["ranker"]["documents"]
        == (await again.run_async(asked))["ranker"]["documents"]
    )
    assert found[0].id == "b2"
    assert len(found) == 2
    assert found[0].score > found[1].score
    heart = {"field": "meta.n", "operator": "==", "value": 3}
    assert ids(
        again.run({**asked, "retriever": {"query": "plots", "filters": heart, "top_k": 9}})["ranker"][
            "documents"
        ]
    ) == ["b3"]
    for pipeline, name in ((writing, "writer"), (again, "retriever"), (asking, "retriever")):
        pipeline.get_component(name).document_store.close()
    with Index.open(path, writable=True) as index:  # all have let go
        assert (index.settings.window, index.settings.overlap, len(index)) == (64, 8, 4)


async def test_a_retriever_finds_what_a_searcher_does(encoder, tmp_path):
    text = "Cats sleep all day. " * 20 + "Banks lend money at interest. " + "Cats sleep all day. " * 20
    with Index.create(tmp_path / "x", encoder, window=32) as made:  # made without Haystack
        made.add(
            [{"doc_id": "long", "text": text, "metadata": {"n": 1}}, {"doc_id": "short", "text": "A cat."}]
        )
    store = LatewoodDocumentStore(str(tmp_path / "x"), encoder)
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        hits = searcher.search("borrowing money", k=2)
        found = LatewoodRetriever(store, top_k=2).run("borrowing money")["documents"]
        assert found == [Document(id=h.doc_id, content=h.text, meta=h.metadata, score=h.score) for h in hits]
        assert (await LatewoodRetriever(store).run_async("borrowing money", top_k=2))["documents"] == found
        [passage] = LatewoodRetriever(store, top_k=1, options={"by": "passage"}).run("borrowing money")[
            "documents"
        ]
        assert (passage.id, passage.content) == ("long", hits[0].passage.text)
        merging = LatewoodRetriever(
            store, filters={"field": "meta.n", "operator": "==", "value": 1}, filter_policy=FilterPolicy.MERGE
        )
        assert merging.run("cat", {"field": "id", "operator": "==", "value": "short"})["documents"] == []
        assert ids(merging.run("cat")["documents"]) == ["long"]
    for wrong, message in [
        (lambda: LatewoodRetriever(7), "document_store is int; pass a LatewoodDocumentStore"),
        (lambda: LatewoodRetriever(store, top_k=0), "k=0"),
        (
            lambda: LatewoodRetriever(store, options={"mod": "late"}),
            "mod is no option of SearchOptions; did you mean mode",
        ),
        (lambda: LatewoodRanker(top_k=0), "top_k=0"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            wrong()
    store.close()


@pytest.mark.slow
async def test_the_ranker_orders_by_maxsim(encoder):
    documents = [Document(id=f"b{i}", content=text, score=-1.0) for i, text in enumerate(BOOKS)]
    documents.append(Document(id="picture", blob=ByteStream(b"x")))
    expected = rerank(encoder, "which organ moves blood?", [*BOOKS, ""], k=3)
    ranker = LatewoodRanker(top_k=3)
    ranker.warm_up()
    found = ranker.run("which organ moves blood?", documents)["documents"]
    assert ids(found) == [ids(documents)[one.index] for one in expected]
    assert [document.score for document in found] == pytest.approx([one.score for one in expected], abs=1e-4)
    assert {document.score for document in documents} == {-1.0, None}
    assert ids((await ranker.run_async("which organ moves blood?", documents, top_k=1))["documents"]) == [
        "b3"
    ]
    assert ranker.run("x", []) == {"documents": []}
