"""LlamaIndex: every operator and method against its own in-memory store; every filter against its own reading of it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    Node,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from encoder import Encoder
from encoder.errors import ArgumentError
from indexing import Index
from retriever import Searcher, SearchOptions, rerank
from retriever.integrations.llamaindex import (
    LatewoodReranker,
    LatewoodRetriever,
    LatewoodVectorStore,
    filter_text,
)
from tests.helpers.fakes import DIM, FakeEncoder
from tests.retriever.integrations.data import KEYS, NUMBERS, TEXTS, some_documents

N = 500
FAKE = FakeEncoder(DIM)


def words(n=N):
    """Nodes of one word each, so that MaxSim is the cosine that SimpleVectorStore ranks by."""
    nodes = []
    for i, metadata in enumerate(some_documents(n)):
        source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"source{i % 7}")}
        nodes.append(
            TextNode(
                id_=f"node{i}", text=f"w{i}", metadata=metadata, relationships=source if i % 5 else {},
                embedding=FAKE.word(f"w{i}").tolist(),
            )
        )  # fmt: skip
    return nodes


def stores(path, nodes):
    ours, theirs = LatewoodVectorStore(path, FAKE), SimpleVectorStore()
    assert ours.add(nodes) == theirs.add(nodes) == [node.node_id for node in nodes]
    return ours, theirs


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    ours, theirs = stores(tmp_path_factory.mktemp("nodes") / "x", words())
    yield ours, theirs
    ours.close()


def asked(word="w3", **changes):
    return VectorStoreQuery(
        **{"query_str": word, "query_embedding": FAKE.word(word).tolist(), "similarity_top_k": 9, **changes}
    )


def one(key, operator, value):
    return MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)])


def ids(nodes):
    return [node.node_id for node in nodes]


# Filters -----------------------------------------------------------------------------------------------------

SCALARS = TEXTS | NUMBERS
LISTS = st.lists(TEXTS, max_size=3) | st.lists(st.sampled_from([-2, 0, 1, 2]), max_size=3)
EQUAL = [FilterOperator.EQ, FilterOperator.NE]
ORDER = [FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE]
MANY = [FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL]
TEXT = [FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE]
LEAVES = st.one_of(
    *(
        st.builds(
            MetadataFilter,
            key=st.sampled_from([*KEYS, "ref_doc_id"]),
            operator=st.sampled_from(some),
            value=values,
        )
        for some, values in [
            (EQUAL, SCALARS | st.none()),
            (ORDER, SCALARS),
            (MANY, LISTS),
            (TEXT, TEXTS),
            ([FilterOperator.CONTAINS], SCALARS),
            ([FilterOperator.IS_EMPTY], st.none()),
        ]
    )
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        MetadataFilters,
        filters=st.lists(inner, max_size=3),
        condition=st.sampled_from([None, *FilterCondition]),
    ),
    max_leaves=6,
)


def met(filters, metadata):
    """A leaf as LlamaIndex reads it; what it cannot compare is not met. It refuses nesting, done here."""
    if isinstance(filters, MetadataFilter):
        try:
            return bool(build_metadata_filter_fn(lambda _: metadata, MetadataFilters(filters=[filters]))(""))
        except TypeError:
            return False
    some = [met(inner, metadata) for inner in filters.filters]
    if not some or filters.condition in (None, FilterCondition.AND):
        return all(some)
    return any(some) == (filters.condition == FilterCondition.OR)


def test_every_operator_is_drawn():
    assert {*EQUAL, *ORDER, *MANY, *TEXT, FilterOperator.CONTAINS, FilterOperator.IS_EMPTY} == set(
        FilterOperator
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filters=FILTERS)
def test_filters_are_those_of_a_plain_loop(both, filters):
    ours, theirs = both
    expected = [i for i, metadata in theirs.data.metadata_dict.items() if met(filters, metadata)]
    assert list(ours.client.now.ids(filter_text(filters))) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("n", FilterOperator.EQ, ["a"]), r"operator '==' has the value \['a'\] \(list\); pass a string"),
        (("n", FilterOperator.IN, "abc"), r"operator 'in' has the value 'abc' \(str\); pass a list"),
        (("n", FilterOperator.NIN, 5), "operator 'nin' has the value 5"),
        (("n", FilterOperator.ANY, "abc"), "operator 'any' has the value 'abc'"),
        (("n", FilterOperator.ALL, None), "operator 'all' has the value None"),
        (("n", FilterOperator.TEXT_MATCH, 5), "operator 'text_match' has the value 5; pass a string"),
        (
            ("n", FilterOperator.TEXT_MATCH_INSENSITIVE, None),
            "operator 'text_match_insensitive' has the value None",
        ),
        (("n", FilterOperator.CONTAINS, None), "operator 'contains' has the value None"),
        (("n", FilterOperator.GT, ["a"]), r"operator '>' has the value \['a'\]"),
        (('a"b', FilterOperator.GT, 1), "the key 'a\"b' cannot be named"),
    ],
)
def test_what_a_filter_cannot_say_is_named(both, wrong, message):
    with pytest.raises(ArgumentError, match=message):
        both[0].query(asked(filters=one(*wrong)))
    with pytest.raises(
        ArgumentError, match=r"filters is \{'n': 1\} \(dict\); pass MetadataFilters or a text"
    ):
        filter_text({"n": 1})


def assert_same_ranking(theirs, query, found, expected):
    """Of cosines that float16 cannot tell apart either may come first."""
    assert len(found) == len(expected.ids) == len(set(found))
    cosines = [np.dot(theirs.get(i), query.query_embedding) for i in found]
    np.testing.assert_allclose(cosines, expected.similarities, rtol=0, atol=2e-3)


# Queries -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    filters=LEAVES,
    word=st.integers(0, N),
    k=st.integers(1, 12),
    node_ids=st.none() | st.lists(st.integers(0, 40), min_size=1, max_size=5),
)
def test_a_query_finds_what_theirs_finds(both, filters, word, k, node_ids):
    ours, theirs = both
    names = None if node_ids is None else [f"node{i}" for i in node_ids]
    query = asked(f"w{word}", filters=MetadataFilters(filters=[filters]), similarity_top_k=k, node_ids=names)
    try:
        expected = theirs.query(query)
    except TypeError:  # it compared a text with a number
        return
    found = ours.query(query)
    assert found.ids == ids(found.nodes)
    assert_same_ranking(theirs, query, found.ids, expected)
    assert found.similarities == sorted(found.similarities, reverse=True)


async def test_modes(both):
    ours, theirs = both
    for mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH):
        assert ours.query(asked("w3 w8", mode=mode)).ids == ["node3", "node8"]
    assert ours.query(asked(mode="sparse", sparse_top_k=1)).ids == ["node3"]
    late, words = (ours.query(asked("w3", mode=mode)).ids for mode in ("default", "sparse"))
    hybrid = ours.query(asked("w3", mode=VectorStoreQueryMode.HYBRID, alpha=1.0, hybrid_top_k=4))
    assert (hybrid.ids, words) == (late[:4], ["node3"])
    assert ours.query(asked("w3", mode=VectorStoreQueryMode.HYBRID, alpha=0.0)).ids[0] == "node3"
    pool = [f"node{i}" for i in range(20)]
    query = asked("w3", mode="mmr", similarity_top_k=5, node_ids=pool)
    assert ours.query(query, mmr_threshold=1.0).ids == theirs.query(query, mmr_threshold=1.0).ids
    query.similarity_top_k, query.mmr_threshold = 2, 0.0  # the second is the one that is least like the first
    cosines = {i: np.dot(theirs.get(i), theirs.get("node3")) for i in pool}
    [first, second] = ours.query(query).ids
    assert (first, second) == ("node3", min(cosines, key=cosines.get))
    relevance = ours.query(asked("w3", mode="mmr")).similarities
    assert all(0 <= one <= 1 for one in relevance)
    for wrong in ("svm", "logistic_regression", "linear_regression", "semantic_hybrid"):
        with pytest.raises(ArgumentError, match=f"mode='{wrong}' is none that Latewood has"):
            ours.query(asked(mode=VectorStoreQueryMode(wrong)))
    with pytest.raises(ArgumentError, match="the query has no query_str"):
        ours.query(VectorStoreQuery(query_embedding=[1.0] * DIM))
    found = ours.query(asked("w1", doc_ids=["source1"]))
    assert {node.ref_doc_id for node in found.nodes} == {"source1"}
    assert (await ours.aquery(asked("w1", doc_ids=["source1"]))).ids == found.ids
    assert ours.query(asked("w1", doc_ids=[], node_ids=[])).ids == ours.query(asked("w1")).ids


# Methods -----------------------------------------------------------------------------------------------------


def same(ours, theirs):
    assert ids(ours.get_nodes()) == list(theirs.data.embedding_dict)
    query = asked(similarity_top_k=99)
    assert_same_ranking(theirs, query, ours.query(query).ids, theirs.query(query))


@pytest.mark.slow
async def test_methods_leave_what_theirs_leave(tmp_path):
    ours, theirs = stores(tmp_path / "x", words(60))
    lang = one("n", FilterOperator.NE, 1)
    with ours:
        same(ours, theirs)
        unequal = [i for i, metadata in theirs.data.metadata_dict.items() if metadata.get("n") != 1]
        assert ids(ours.get_nodes(filters=lang)) == unequal
        assert ids(ours.get_nodes(["nobody", *unequal[3:5], "node1"], lang)) == sorted(
            {*unequal[3:5], *({"node1"} & set(unequal))}, key=unequal.index
        )
        for store in (ours, theirs):
            store.delete("source2")
            store.delete("nobody")
        same(ours, theirs)
        for arguments in (
            {"node_ids": ["node1", "nobody"]},
            {"node_ids": ["node3", "node4"], "filters": lang},
            {"filters": lang},
        ):
            ours.delete_nodes(**arguments)
            theirs.delete_nodes(**arguments)
            same(ours, theirs)
        assert 0 < len(ours.client.now) < 30
        nodes = words(80)[60:]
        assert await ours.async_add(nodes) == theirs.add(nodes)
        same(ours, theirs)
        await ours.adelete("source4")
        theirs.delete("source4")
        await ours.adelete_nodes(["node61"])
        theirs.delete_nodes(["node61"])
        same(ours, theirs)
        assert ids(await ours.aget_nodes(["node62", "node65", "nobody"])) == ["node62", "node65"]
        await ours.aclear()
        theirs.clear()
        same(ours, theirs)
        ours.add(words(3))
        ours.clear()
        assert ours.get_nodes() == []


def test_nodes_come_back_as_they_were(tmp_path):
    nodes = [
        TextNode(
            id_="a",
            text="w1 w2",
            metadata={"n": 1, "deep": {"x": [1, None]}},
            excluded_llm_metadata_keys=["n"],
        ),
        TextNode(id_="b", text="", start_char_idx=3, end_char_idx=5, metadata_template="{key}"),
        IndexNode(id_="c", text="w3", index_id="other"),
        ImageNode(id_="d", text="w4", image_url="https://example.com/x.png"),
        Node(id_="e", metadata={"doc_id": "mine"}),
    ]
    nodes[0].relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="file", metadata={"m": 1})
    nodes[0].relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id="b")
    with LatewoodVectorStore(tmp_path / "x", FAKE) as store:
        store.add(nodes)
        for node, found in zip(nodes, store.get_nodes(), strict=True):
            assert found.model_dump(exclude={"text_resource"}) == node.model_dump(exclude={"text_resource"})
            assert found.get_content() == node.get_content()
        dumped = store.to_dict()
    assert dumped["path"] == str(tmp_path / "x")
    with pytest.MonkeyPatch.context() as patch:  # the index's own encoder is a stranger
        patch.setattr("retriever.integrations.llamaindex.Store.open", lambda path, encoder: (path, encoder))
        assert LatewoodVectorStore.from_dict(dumped).client == (str(tmp_path / "x"), None)


# A whole index, with the bundled model -----------------------------------------------------------------------

BOOKS = [
    "Parsing dates and times.",
    "Parsing dates of any form.",
    "Drawing charts of sales.",
    "The heart pumps blood.",
]


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load()


@pytest.mark.slow
async def test_llamaindexs_own_index_works_on_the_store(encoder, tmp_path):
    nodes = [TextNode(id_=f"b{i}", text=text, metadata={"i": i}) for i, text in enumerate(BOOKS)]
    with LatewoodVectorStore(tmp_path / "x", encoder) as store:
        context = StorageContext.from_defaults(vector_store=store)
        embeds_nothing = MockEmbedding(embed_dim=1)
        index = VectorStoreIndex(nodes, storage_context=context, embed_model=embeds_nothing)
        retriever = index.as_retriever(similarity_top_k=2, filters=one("i", FilterOperator.LT, 3))
        hits = store.client.searcher.search("plots", k=2, filter="i < 3")
        found = retriever.retrieve("plots")
        assert [(n.node_id, n.score) for n in found] == [(hit.doc_id, hit.score) for hit in hits]
        assert [n.node_id for n in await retriever.aretrieve("plots")] == [hit.doc_id for hit in hits]
        index.delete_nodes(["b2"])
        again = VectorStoreIndex.from_vector_store(store, embed_model=embeds_nothing)
        again.insert_nodes([TextNode(id_="b9", text="Charts of rivers.", metadata={"i": 0})])
        assert retriever.retrieve("plots")[0].node_id == "b9"
        context.persist(str(tmp_path / "kept"))


@pytest.mark.slow
async def test_a_retriever_needs_no_index_of_llamaindex(encoder, tmp_path):
    text = "Cats sleep all day. " * 20 + "Banks lend money at interest. " + "Cats sleep all day. " * 20
    with Index.create(tmp_path / "x", encoder, window=32) as made:  # made without LlamaIndex
        made.add(
            [{"doc_id": "long", "text": text, "metadata": {"n": 1}}, {"doc_id": "short", "text": "A cat."}]
        )
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        [hit] = searcher.search("borrowing money", k=1)
        for given in (tmp_path / "x", str(tmp_path / "x"), searcher):
            retriever = LatewoodRetriever(given, 1)
            [found] = retriever.retrieve("borrowing money")
            assert (found.node_id, found.text, found.metadata, found.score) == (
                "long",
                text,
                {"n": 1},
                hit.score,
            )
            retriever.close()
        passages = LatewoodRetriever(searcher, 1, filters="n = 1", options=SearchOptions(by="passage"))
        [found] = await passages.aretrieve("borrowing money")
        assert (found.node.start_char_idx, found.node.end_char_idx) == hit.passage.span
        assert found.text == hit.passage.text
        assert "interest" in found.text
        assert LatewoodRetriever(searcher, filters=one("n", FilterOperator.GT, 1)).retrieve("money") == []
        assert not passages.reload()
        for wrong in (lambda: LatewoodRetriever(searcher, 0), lambda: LatewoodRetriever(5)):
            with pytest.raises(ArgumentError):
                wrong()
    with LatewoodVectorStore(tmp_path / "x", encoder) as store:
        for given in (store, store.client):  # which stay open
            LatewoodRetriever(given).close()
            assert len(LatewoodRetriever(given, 1).retrieve("borrowing money")) == 1


async def test_the_reranker_orders_by_maxsim(encoder):
    given = [NodeWithScore(node=TextNode(id_=f"b{i}", text=text), score=-1.0) for i, text in enumerate(BOOKS)]
    expected = rerank(encoder, "which organ moves blood?", BOOKS)
    found = LatewoodReranker(encoder=encoder).postprocess_nodes(given, query_str="which organ moves blood?")
    assert [(n.node_id, n.score) for n in found] == [(f"b{one.index}", one.score) for one in expected]
    reranker = LatewoodReranker(encoder=encoder, top_n=1)
    [best] = await reranker.apostprocess_nodes(given, query_str="which organ moves blood?")
    assert best.node_id == "b3"
    assert [node.score for node in given] == [-1.0] * 4
    assert reranker.to_dict() == {"top_n": 1, "class_name": "LatewoodReranker"}
    assert reranker.postprocess_nodes([], query_str="x") == []
    with pytest.raises(ArgumentError, match="no query to rank nodes by"):
        reranker.postprocess_nodes(given)
    assert np.isfinite(best.score)
