"""LangChain's own suites, whole, on a real index; its filters against a plain loop; what else the adapter promises."""

import gc
import math
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from encoder import Encoder
from encoder.errors import ArgumentError, EncoderMismatchError, IndexLockedError
from indexing import Index
from retriever import Searcher, SearchOptions, rerank
from retriever.integrations.langchain import (
    LOGICAL,
    OPERATORS,
    LatewoodReranker,
    LatewoodRetriever,
    LatewoodVectorStore,
    filter_text,
)
from tests.helpers.fakes import DIM, FakeEncoder
from tests.retriever.integrations.data import (
    KEYS,
    NUMBERS,
    TEXTS,
    VALUES,
    assert_all_drawn,
    python_compare,
    python_contains,
    some_documents,
)

BOOKS = {
    "dates": ("Parsing dates and times.", {"lang": "py", "stars": 12, "repo": {"name": "when"}}),
    "forms": ("Parsing dates of any form.", {"lang": "js", "stars": 40}),
    "charts": ("Drawing charts of sales.", {"lang": "py", "stars": 3}),
    "heart": ("The heart pumps blood through the body.", {"lang": None}),
}


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load()


@pytest.fixture(scope="module")
def books(encoder, tmp_path_factory):
    texts, metadata = zip(*BOOKS.values(), strict=True)
    path = tmp_path_factory.mktemp("books") / "x"
    given = {"path": path, "encoder": encoder}
    with LatewoodVectorStore.from_texts(texts, None, list(metadata), ids=list(BOOKS), **given) as store:
        yield store


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, encoder, tmp_path):
        with LatewoodVectorStore(tmp_path / "x", encoder) as store:
            yield store


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _books(self, books):
        self.books = books

    @property
    def retriever_constructor(self):
        return LatewoodRetriever

    @property
    def retriever_constructor_params(self):
        return {"index": self.books}

    @property
    def retriever_query_example(self):
        return "how are dates read?"


# Filters -----------------------------------------------------------------------------------------------------

KEY = st.sampled_from(KEYS)
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains", "$not_contains"]), VALUES),
    st.tuples(st.sampled_from(["$eq", "$ne"]), st.none()),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), VALUES | st.none()),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(VALUES | st.none(), max_size=4)),
    st.tuples(st.just("$between"), st.tuples(NUMBERS, NUMBERS) | st.tuples(TEXTS, TEXTS)),
    st.tuples(st.just("$exists"), st.booleans()),
    st.tuples(st.just("$ilike"), TEXTS.map(lambda text: f"%{text}%")),
)
LEAVES = (
    st.tuples(KEY, OPERATIONS).map(lambda leaf: {leaf[0]: dict([leaf[1]])})
    | st.tuples(KEY, OPERATIONS).map(lambda leaf: {leaf[0]: {"$not": dict([leaf[1]])}})
    | st.dictionaries(KEY, VALUES, max_size=2)
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda one: {"$not": one}),
        st.tuples(st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, max_size=3)).map(
            lambda pair: dict([pair])
        ),
    ),
    max_leaves=6,
)


def met(wanted, metadata):
    """Whether metadata meet a filter, by a plain reading of what each operator says."""
    return all(part_met(key, value, metadata) for key, value in wanted.items())


def part_met(key, wanted, metadata):
    if key == "$not":
        return not met(wanted, metadata)
    if key.startswith("$"):
        some = [met(one, metadata) for one in wanted]
        return all(some) if key == "$and" else any(some) == (key == "$or")
    return value_met(wanted if isinstance(wanted, dict) else {"$eq": wanted}, metadata.get(key))


def value_met(operators, value):
    return all(operator_met(operator, wanted, value) for operator, wanted in operators.items())


OPPOSITES = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}
ORDERS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def operator_met(operator, wanted, value):
    if operator in OPPOSITES:
        return not operator_met(OPPOSITES[operator], wanted, value)
    if operator in ORDERS:
        return python_compare(ORDERS[operator], value, wanted)
    if operator == "$between":
        return python_compare(">=", value, wanted[0]) and python_compare("<=", value, wanted[1])
    if operator == "$not":
        return not value_met(wanted, value)
    if operator == "$exists":
        return (value is not None) == wanted
    if operator == "$ilike":
        return isinstance(value, str) and ascii_lower(wanted.strip("%")) in ascii_lower(value)
    if operator == "$contains":
        return python_contains(value, wanted)
    return value == wanted if operator == "$eq" else value in wanted


def ascii_lower(text):
    return "".join(c.lower() if c.isascii() else c for c in text)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """500 random documents: their metadata, and an index of them."""
    documents = some_documents()
    with Index.create(tmp_path_factory.mktemp("many") / "x", FakeEncoder(DIM)) as index:
        index.add({"doc_id": str(i), "text": "w1", "metadata": data} for i, data in enumerate(documents))
        yield documents, index


def test_every_operator_is_drawn():
    assert_all_drawn(FILTERS, [*OPERATORS, *LOGICAL, "$not"])


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wanted=FILTERS)
def test_filters_are_those_of_a_plain_loop(many, wanted):
    documents, index = many
    expected = [str(i) for i, metadata in enumerate(documents) if met(wanted, metadata)]
    assert list(index.ids(filter_text(wanted))) == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"a": {"$regex": "x"}}, r"the filter's operator '\$regex' is none that Latewood can say; pass one of \$eq, "),
        ({"$text": "x"}, r"operator '\$text' is none that Latewood can say; pass one of \$and, \$or, \$nor, \$not"),
        ({5: "x"}, "operator 5 is none"),
        ({"a": {"$in": "xyz"}}, r"operator '\$in' has the value 'xyz' \(str\); pass a list"),
        ({"a": [1, 2]}, r"operator '\$eq' has the value \[1, 2\] \(list\); pass a string, a finite number, a bool"),
        ({"a": {"$gt": math.nan}}, r"operator '\$gt' has the value nan"),
        ({"a": {"$between": [1]}}, r"operator '\$between' has 1 values; pass \[least, most\]"),
        ({"a": {"$not": 5}}, r"operator '\$not' has the value 5; pass a dict"),
        ({"a": {"$ilike": 5}}, r"operator '\$ilike' has the value 5; pass a string"),
        ({"$or": [5]}, r"\$or 5 is int; pass a dict such as"),
        ({'a"b': 1}, "the key 'a\"b' cannot be named in a filter"),
        ({"a..b": 1}, "the key '' cannot be named in a filter"),
        (lambda document: True, "filter .* is function; pass a dict such as {'lang': 'py'}, or a text"),
    ],
)  # fmt: skip
def test_what_a_filter_cannot_say_is_named(wanted, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        filter_text(wanted)
    assert "\n" not in str(caught.value)


# The store ---------------------------------------------------------------------------------------------------


def ids(documents):
    return [document.id for document in documents]


@pytest.mark.slow
def test_searches_are_the_searchers_own(books):
    query, searcher = "how are dates read?", books.store.searcher
    for changes in ({}, {"mode": "late"}, {"mode": "lexical"}, {"filter": "lang = 'py'"}, {"nprobe": 2}):
        hits = searcher.search(query, k=3, **changes)
        found = books.similarity_search_with_score(query, 3, **changes)
        assert [(document.id, score) for document, score in found] == [
            (hit.doc_id, hit.score) for hit in hits
        ]
        assert [(d.page_content, d.metadata) for d, _ in found] == [BOOKS[d.id] for d, _ in found]
        assert ids(books.similarity_search(query, 3, **changes)) == [hit.doc_id for hit in hits]
    vectors = searcher.encode([query])[0]
    hits = searcher.search_embeddings(vectors, k=2)
    assert ids(books.similarity_search_by_vector(vectors, 2)) == [hit.doc_id for hit in hits]
    assert sorted(ids(books.similarity_search(query, filter={"stars": {"$gt": 5}}))) == ["dates", "forms"]
    with pytest.raises(ArgumentError, match="query"):
        books.similarity_search_by_vector([0.5, 0.5])
    with pytest.raises(ArgumentError, match="no search by one vector"):
        books.max_marginal_relevance_search_by_vector([0.5, 0.5])


async def test_relevance_is_a_share_of_the_best_possible(books):
    text = BOOKS["heart"][0]
    [(same, best), *others] = books.similarity_search_with_relevance_scores(text, k=4)
    assert same.id == "heart"
    assert 0.85 < best <= 1  # a query and a document are encoded with other marks
    assert all(0 <= relevance < best - 0.1 for _, relevance in others)
    assert others == sorted(others, key=lambda pair: -pair[1])
    kept = books.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": best - 0.05}
    )
    assert ids(kept.invoke(text)) == ids(await kept.ainvoke(text)) == ["heart"]
    with pytest.raises(ArgumentError, match='mode="lexical" has no scores from 0 to 1'):
        books.similarity_search_with_relevance_scores(text, mode="lexical")


@pytest.mark.slow
def test_marginal_relevance_is_that_of_a_plain_loop(encoder, tmp_path):
    same = "Parsing dates of any form."
    texts = {"a": same, "b": same, "c": same, "charts": "Drawing charts of sales.", "times": "Reading times."}
    query, path = "parse a date", tmp_path / "x"
    with LatewoodVectorStore.from_texts(texts.values(), ids=list(texts), path=path, encoder=encoder) as store:
        relevance = {d.id: score for d, score in store.similarity_search_with_relevance_scores(query, 9)}
        means = {i: encoder.encode_documents([text])[0].mean(0) for i, text in texts.items()}

        def gain(i, taken, balance):
            near = [means[i] @ means[j] / np.linalg.norm(means[i]) / np.linalg.norm(means[j]) for j in taken]
            return balance * relevance[i] - (1 - balance) * max(near, default=0)

        orders = {}
        for balance in (0, 0.3, 0.5, 0.8, 1):
            taken = []
            while len(taken) < 4:
                rest = [i for i in texts if i not in taken]
                taken.append(rest[int(np.argmax([gain(i, taken, balance) for i in rest]))])
            found = ids(store.max_marginal_relevance_search(query, 4, lambda_mult=balance))
            assert [texts[i] for i in found] == [texts[i] for i in taken]  # a, b and c are equal
            orders[balance] = found
        assert orders[1][:3] == ["a", "b", "c"]
        assert orders[0.3][1] in ("charts", "times")
        assert ids(store.max_marginal_relevance_search(query, 2, fetch_k=2, lambda_mult=0)) == ["a", "b"]
        asked = {"k": 2, "filter": "doc_id not in ('b', 'c')"}
        assert ids(store.as_retriever(search_type="mmr", search_kwargs=asked).invoke(query))[0] == "a"
        with pytest.raises(ArgumentError, match="lambda_mult=2"):
            store.max_marginal_relevance_search(query, lambda_mult=2)


def test_langchains_indexing_keeps_a_store_up_to_date(encoder, tmp_path):
    records = InMemoryRecordManager("x")
    records.create_schema()

    def sync(*texts):
        documents = [Document(page_content=text, metadata={"source": "s"}) for text in texts]
        options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
        return index(documents, records, store, **options)

    with LatewoodVectorStore(tmp_path / "x", encoder) as store:
        assert sync("one", "two")["num_added"] == 2
        assert sync("two", "three") == {"num_added": 1, "num_updated": 0, "num_skipped": 1, "num_deleted": 1}
        assert sorted(document.text for document in store.store.now) == ["three", "two"]


def test_deleting(tmp_path):
    with LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM)) as store:
        assert store.add_texts([], ids=[]) == []
        made = store.add_texts(["w1", "w2", "w3"], [{"n": 1}, {"n": 2}, None])
        assert len(set(made)) == 3
        assert store.delete(filter={"n": {"$ne": 1}})
        assert ids(store.get_by_ids(made)) == made[:1]
        assert store.delete()
        assert len(store.store.now) == 0
        for wrong, message in [
            (lambda: store.add_texts(["w1"], ids=["a", "b"]), "2 ids for 1 texts"),
            (lambda: store.add_texts(["w1"], [{}, {}]), "2 metadatas for 1 texts"),
            (lambda: store.add_texts(["w1"], colour=1), "colour=1 is nothing that Latewood takes here"),
            (lambda: store.delete(["a"], namespace="n"), "namespace='n' is nothing"),
            (lambda: store.similarity_search("w1", colour=1), "colour is no option of SearchOptions"),
            (lambda: LatewoodVectorStore.from_texts(["w1"], None), "from_texts has no path"),
            (
                lambda: LatewoodVectorStore(tmp_path / "y", 5),
                r"encoder is 5 \(int\); pass one with encode_documents",
            ),
            (
                lambda: LatewoodVectorStore(tmp_path / "x", window=7),
                "was made with window='auto', not 7; leave it out",
            ),
        ]:
            with pytest.raises(ArgumentError, match=message):
                wrong()
    with pytest.raises(ArgumentError, match="was made with window='auto', not 7; leave it out"):
        LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM), window=7)
    with LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM), window="auto") as store:
        assert store.similarity_search("w1") == []


@pytest.mark.slow
def test_stores_of_one_folder_are_one_index(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "x")
    one, two = LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM)), LatewoodVectorStore(tmp_path / "link")
    one.add_texts(["w1"], ids=["a"])
    two.add_texts(["w2"], ids=["b"])
    with pytest.raises(EncoderMismatchError):
        LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM, seed=1))
    one.close()
    one.close()
    assert ids(two.similarity_search("w2")) == ["b", "a"]
    with pytest.raises(IndexLockedError):
        Index.open(tmp_path / "x", writable=True)
    two.close()
    with pytest.raises(ArgumentError, match="is closed; open it again"):
        two.get_by_ids(["a"])
    gone = LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM))
    gone = None  # nobody has it, so it is let go
    gc.collect()
    with LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM)) as old:
        shutil.rmtree(tmp_path / "x")
        with LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM)) as new:  # another index in its place
            new.add_texts(["w3"], ids=["c"])
            assert (len(new.store.now), ids(new.similarity_search("w1"))) == (1, ["c"])
            assert ids(old.similarity_search("w1")) == ["a", "b"]
    with Index.open(tmp_path / "x", FakeEncoder(DIM), writable=True) as index:
        assert (gone, list(index.ids())) == (None, ["c"])
    with pytest.raises(ArgumentError, match="window=0"):
        LatewoodVectorStore(tmp_path / "y", FakeEncoder(DIM), window=0)
    with Index.open(tmp_path / "x", FakeEncoder(DIM), writable=True) as index:
        with pytest.raises(IndexLockedError, match="is being written by process"):
            LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM))
        assert list(index.ids()) == ["c"]


# The retriever and the reranker ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_retriever_gives_scores_and_spans_where_asked(encoder, tmp_path):
    text = "Cats sleep all day. " * 20 + "Banks lend money at interest. " + "Cats sleep all day. " * 20
    with Index.create(tmp_path / "x", encoder, window=32) as made:
        made.add(
            [{"doc_id": "long", "text": text, "metadata": {"n": 1}}, {"doc_id": "short", "text": "A cat."}]
        )
        assert made.n_passages > 5
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        query = "borrowing money"
        [hit] = searcher.search(query, k=1, by="passage")
        for given in (tmp_path / "x", str(tmp_path / "x"), searcher):
            retriever = LatewoodRetriever(index=given, k=1)
            assert retriever.invoke(query) == [Document(id="long", page_content=text, metadata={"n": 1})]
            retriever.close()
        asked = LatewoodRetriever(index=searcher, k=1, by="passage", scores=True, spans=True, filter={"n": 1})
        [found] = asked.invoke(query)
        assert found.page_content == hit.passage.text == text[slice(*found.metadata["span"])]
        assert "interest" in found.page_content
        assert found.metadata == {"n": 1, "score": hit.score, "span": list(hit.passage.span)}
        assert ids(asked.invoke(query, filter=None, k=2, by="document", mode="hybrid")) == ["long", "short"]
        with pytest.raises(ArgumentError, match="k=0"):
            asked.invoke(query, k=0)
        with pytest.raises(ValueError, match='by="passage" with mode="lexical"'):
            LatewoodRetriever(index=searcher, by="passage", mode="lexical")
        with pytest.raises(ValueError, match="nprobe=0"):
            LatewoodRetriever(index=searcher, options=SearchOptions(nprobe=0))
        with pytest.raises(ValueError, match="pass a path, a Searcher or a Latewood store"):
            LatewoodRetriever(index=5)


def test_a_retriever_of_a_path_moves_when_it_is_told(tmp_path):
    with LatewoodVectorStore(tmp_path / "x", FakeEncoder(DIM)) as store:
        store.add_texts(["w1"], ids=["a"])
        following = LatewoodRetriever(index=store)
        with Searcher.open(tmp_path / "x", FakeEncoder(DIM)) as searcher:
            apart = LatewoodRetriever(index=searcher)
            store.add_texts(["w1"], ids=["b"])
            assert [len(one.invoke("w1")) for one in (following, apart)] == [2, 1]
            assert [apart.reload(), apart.reload()] == [True, False]
            assert len(apart.invoke("w1")) == 2
            with pytest.raises(ArgumentError, match="is open for searching alone"):
                apart._store.add([])
            for source in (store, store.store, searcher):  # which stay their owners'
                LatewoodRetriever(index=source).close()
            assert [len(one.invoke("w1")) for one in (following, apart)] == [2, 2]


async def test_the_reranker_orders_by_maxsim(encoder):
    given = [Document(id=i, page_content=text, metadata=data) for i, (text, data) in BOOKS.items()]
    query = "which organ moves blood?"
    expected = rerank(encoder, query, [document.page_content for document in given])
    reranker = LatewoodReranker(encoder=encoder)
    found = reranker.compress_documents(given, query)
    assert found == await reranker.acompress_documents(given, query) == [given[one.index] for one in expected]
    [best] = LatewoodReranker(encoder=encoder, top_n=1, scores=True).compress_documents(given, query)
    assert (best.id, best.metadata) == ("heart", {"lang": None, "relevance_score": expected[0].score})
    assert given[3].metadata == {"lang": None}
    assert LatewoodReranker(top_n=1).compress_documents([], query) == []
