"""Full text against a BM25 in plain Python, through any history; fusion against its formula."""

import math
import sqlite3
import unicodedata
from contextlib import closing

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import TokenEmbeddings
from encoder.errors import ArgumentError
from indexing import Index
from indexing.storage import tables
from indexing.storage.fulltext import (
    _ASCII_PART,
    _PART,
    create_table,
    insert_texts,
    queried,
    split_words,
    word_spans,
)
from indexing.storage.reader import Reader
from indexing.storage.store import Store
from indexing.storage.tables import Change, DocumentRow, State
from retriever import Searcher
from retriever.ranking.fusion import fused, words_weight
from tests.helpers.fakes import DIM, WORDS, FakeEncoder, bm25, corpus, fusion, record


def assert_ranked(hits, expected, k):
    assert len(hits) == len({hit.doc_id for hit in hits}) == min(k, len(expected))
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    best = sorted(expected.values(), reverse=True)[:k]
    np.testing.assert_allclose([hit.score for hit in hits], best, rtol=1e-6)
    np.testing.assert_allclose([hit.score for hit in hits], [expected[h.doc_id] for h in hits], rtol=1e-6)


# Words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("plain words, twice", "plain words twice"),
        ("parseHTTPResponse(max_line)", "parsehttpresponse parse http response max_line max line"),
        ("XMLHttpRequest2", "xmlhttprequest2 xml http request2"),
        ("utf8 IOError x", "utf8 ioerror io error x"),
        ("__init__ SNAKE_CASE_2", "__init__ init snake_case_2 snake case 2"),
        ("self._value's École", "self _value value s ecole"),
        ("Ｆｕｌｌ ﬁne ½ x²", "full fine 1 2 x2"),
        ("日本語 水", "日本 本語 語 水"),
        ("Python入門", "python 入門 門"),
        ("हिन्दी में", "हिन्दी में"),
        ("co\u00adop ki\u200cme a\u200bb", "coop kime a b"),
        ("a\0b", "a b"),
    ],
)
def test_identifiers_are_cut_into_their_parts(text, words):
    assert split_words(text) == words


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="ascii", categories=["L", "N", "Pc"]), min_size=1, max_size=12))
def test_parts_of_ascii_words_are_those_of_any_script(run):
    assert _ASCII_PART.findall(run) == regex.findall(_PART, run)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_words_stand_at_the_same_places_in_ascii(text):
    """What comes after goes the way of any script."""
    assert word_spans(text) == [span for span in word_spans(f"{text} é") if span[0] < len(text)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("parse response", "d0"),
        ("parsing responses", "d0"),  # stems
        ("parse_http_response", "d0"),
        ("parsehttpresponse", "d0"),
        ("MAX_LINE_LENGTH", "d1"),
        ("maximum, or: line length?", "d1"),
        ("naive ecole", "d2"),  # without accents
        ("日本語", "d2"),
        ("nothing", None),
        ("", None),
        ("?!*", None),
    ],
)
def test_code_and_prose_are_found(tmp_path, query, found):
    texts = [
        "def parseHTTPResponse(self):",
        "max_line_length = 110",
        "Un naïf, naïve: l'École 日本語",
        "",
        "x",
    ]
    with Index.create(tmp_path / "x", FakeEncoder(DIM)) as index:
        index.add(record(i, text) for i, text in enumerate(texts))
    with Searcher.open(tmp_path / "x") as searcher:
        hits = searcher.search(query, mode="lexical")
        assert [hit.doc_id for hit in hits] == ([found] if found else [])


SENTENCES = {  # a sentence, a part of it to be found, and a word that it does not have
    "Latin": ("Tiếng Việt là ngôn ngữ của người Việt.", "ngôn ngữ", "đường"),
    "Greek": ("Η γλώσσα είναι το σπίτι του ανθρώπου.", "ΓΛΩΣΣΑ", "θάλασσα"),
    "Cyrillic": ("Ещё вчера мы гуляли по Москве.", "еще", "завтра"),
    "Hebrew": ("יְרוּשָׁלַיִם היא עיר הבירה.", "ירושלים", "חיפה"),
    "Arabic": ("اللُّغَةُ العربية لغة القرآن.", "اللغة", "مدرسة"),
    "Devanagari": ("हिन्दी भारत की राजभाषा है।", "राजभाषा", "किताब"),
    "Bengali": ("আমি বাংলায় গান গাই।", "বাংলায়", "নদী"),
    "Tamil": ("தமிழ் ஒரு செம்மொழி ஆகும்.", "செம்மொழி", "கடல்"),
    "Georgian": ("საქართველო მთიანი ქვეყანაა.", "ქვეყანაა", "ზღვა"),
    "Ethiopic": ("ኢትዮጵያ የአፍሪካ አገር ናት።", "የአፍሪካ", "ወንዝ"),
    "Han": ("北京是中华人民共和国的首都。", "首都", "上海"),
    "Kana": ("すべての人間は、生まれながらにして自由である。", "自由", "学校"),
    "Hangul": ("한국어를 배우는 학생이 많습니다.", "한국어", "바다"),
    "Thai": ("ภาษาไทยเป็นภาษาราชการของประเทศไทย", "ราชการ", "ตลาด"),
    "Lao": ("ພາສາລາວເປັນພາສາທາງການຂອງລາວ", "ທາງການ", "ຕະຫຼາດ"),
    "Khmer": ("ភាសាខ្មែរជាភាសាផ្លូវការរបស់កម្ពុជា", "ផ្លូវការ", "ទន្លេ"),
    "Myanmar": ("မြန်မာဘာသာစကားသည် ရုံးသုံးဘာသာစကားဖြစ်သည်", "ဘာသာစကား", "ပင်လယ်"),
}


@pytest.fixture(scope="module", params=["NFC", "NFD"])
def sentences(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("scripts") / "x"
    texts = [unicodedata.normalize(request.param, sentence) for sentence, _, _ in SENTENCES.values()]
    vectors = TokenEmbeddings.from_list([np.eye(DIM, dtype=np.float32)[:1]] * len(texts), DIM)
    with Index.create(path, dim=DIM) as index:
        index.add_embeddings(list(SENTENCES), vectors, texts=texts)
    with Searcher.open(path) as searcher:
        yield searcher


@pytest.mark.parametrize("script", SENTENCES)
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_words_of_every_script_are_found(sentences, script, form):
    sentence, part, other = (unicodedata.normalize(form, text) for text in SENTENCES[script])

    def found(query):
        return [hit.doc_id for hit in sentences.search(query, mode="lexical")]

    assert found(part) == [script]
    assert found(sentence)[0] == script
    assert script not in found(other)
    vowel = {
        "Devanagari": "राज",
        "Bengali": "বাংল",
        "Tamil": "செம்",
    }  # no words: cut at a sign, they would be found
    assert not found(vowel.get(script, "?"))


def test_one_character_finds_the_words_it_is_in(sentences):
    for character, script in (("京", "Han"), ("都", "Han"), ("由", "Kana"), ("를", "Hangul")):
        assert [hit.doc_id for hit in sentences.search(character, mode="lexical")] == [script]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(['"', "NEAR", "(", ")", "AND", "NOT", "^", "*", "w1", "-", ":"])).map(" ".join)
)
def test_no_query_is_an_fts5_expression(tmp_path_factory, query):
    """Whatever a query holds, it is read as words, and those that are stored are found."""
    sql = "SELECT rowid FROM fulltext WHERE fulltext MATCH ?"
    with closing(sqlite3.connect(":memory:")) as connection:
        create_table(connection)
        insert_texts(connection, [(1, query)])
        found = [connection.execute(sql, [word]).fetchall() for word in queried(query)]
    assert found == [[(1,)]] * len(found)
    assert len(found) >= ("w1" in query.split())


def test_words_that_most_documents_have_count(tmp_path):
    """Among long documents most words are of this kind; FTS5's own bm25 gives them nothing."""
    texts = {f"d{i}": f"w1 w{i % 2 + 2} " * (i + 1) + "w9 " * 9 for i in range(9)} | {"d9": "w2 w4"}
    with Index.create(tmp_path / "x", FakeEncoder(DIM)) as index:
        index.add({"doc_id": doc_id, "text": text} for doc_id, text in texts.items())
    with Searcher.open(tmp_path / "x") as searcher:
        for query in ("w1", "w2 w1", "w9", "w3 w4 w9"):
            assert_ranked(searcher.search(query, mode="lexical"), bm25(query, texts), 10)
        assert searcher.search("w1", mode="lexical")[0].doc_id == "d8"


def test_stop_words_are_asked_only_where_there_are_no_others(tmp_path):
    assert queried("Where is the Max_Line, if not here?") == ['"max_line"', '"max"', '"line"']
    assert queried("is_valid or not") == ['"is_valid"', '"valid"']
    assert queried("To be or not to be!") == ['"to"', '"be"', '"or"', '"not"']
    texts = {"a": "to be is to do", "b": "the the the the where", "c": "a question"}
    with Index.create(tmp_path / "x", FakeEncoder(DIM)) as index:
        index.add({"doc_id": doc_id, "text": text} for doc_id, text in texts.items())
    with Searcher.open(tmp_path / "x") as searcher:
        for query, found in (("where is the question?", "c"), ("to be, or not to be", "a"), ("the", "b")):
            assert_ranked(
                searcher.search(query, mode="lexical"),
                bm25("question" if found == "c" else query.replace(",", ""), texts),
                1,
            )
            assert [hit.doc_id for hit in searcher.search(query, mode="lexical")] == [found]


@pytest.mark.slow
def test_long_queries(tmp_path):
    with Index.create(tmp_path / "x", FakeEncoder(DIM)) as index:
        index.add([record(0, "w1"), record(1, "w2")])
    with Searcher.open(tmp_path / "x") as searcher:
        words = " ".join(f"word{i}" for i in range(5000)) + " w2"
        assert [hit.doc_id for hit in searcher.search(words, mode="lexical")] == ["d1"]


# The table, through any history -----------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 15), st.integers(0, 30)), max_size=12)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 15), max_size=6)),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("metadata"), st.integers(0, 15)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=8,
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(OPERATIONS)
def test_any_history_ranks_like_bm25_of_what_is_left(tmp_path_factory, history):
    path = tmp_path_factory.mktemp("history") / "x"
    encoder = FakeEncoder(DIM)
    texts = {}
    index = Index.create(path, encoder, flat_tokens=256, commit_tokens=60)
    try:
        for operation, argument in history:
            if operation == "add":
                docs = [record(i, " ".join(WORDS[(v * k) % 12] for k in range(v)), v=v) for i, v in argument]
                index.add(docs)
                texts |= {d["doc_id"]: d["text"] for d in docs}
            elif operation == "delete":
                index.delete([f"d{i}" for i in argument])
                texts = {k: v for k, v in texts.items() if k not in {f"d{i}" for i in argument}}
            elif operation == "compact":
                index.compact()
            elif operation == "metadata" and f"d{argument}" in texts:
                index.update_metadata({f"d{argument}": {"new": True}})
            elif operation == "reopen":
                index.close()
                index = Index.open(path, encoder, writable=True)
            with Searcher.open(path, encoder) as searcher:
                for query in ("w1", "w3 w5 w7", "absent"):
                    assert_ranked(searcher.search(query, k=7, mode="lexical"), bm25(query, texts), 7)
        index.verify()
        index._writer.store._db.execute("INSERT INTO fulltext (fulltext) VALUES ('integrity-check')")
    finally:
        index.close()


@pytest.mark.slow
def test_replaced_and_deleted_texts_no_longer_count(tmp_path):
    encoder = FakeEncoder(DIM)
    docs = corpus(30)
    texts = {d["doc_id"]: d["text"] for d in docs}
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(docs)
        index.delete([f"d{i}" for i in range(8)])
        index.delete(filter="n = 8")
        index.add([record(9, "w1 w1 w2"), record(40, "w2 " * 30)])
        texts = {k: v for k, v in texts.items() if k not in {f"d{i}" for i in range(9)}}
        texts |= {"d9": "w1 w1 w2", "d40": "w2 " * 30}
        for _ in range(2):
            with Searcher.open(tmp_path / "x", encoder) as searcher:
                for query in (*WORDS, "w1 w2 w3"):
                    assert_ranked(searcher.search(query, k=50, mode="lexical"), bm25(query, texts), 50)
            index.compact()


def test_a_commit_that_fails_leaves_the_words_too(tmp_path):
    path = tmp_path / "index.db"

    def found():
        reader = Reader(path)
        documents = reader.lexical(['"common"'])[0].tolist()
        reader.close()
        return documents

    tables.create(path.parent, {})
    store = Store(path)
    store.bury()
    rows = [DocumentRow(i, f"d{i}", "", "{}", f"w{i} common") for i in range(3)]
    store.commit(Change(State(generation=1), documents=rows))
    assert found() == [0, 1, 2]
    bad = [DocumentRow(3, "new", "", "{}", "common"), DocumentRow(4, "d1", "", "{}", "common")]
    with pytest.raises(sqlite3.IntegrityError):
        store.commit(Change(State(generation=2), deleted=[0], documents=bad))
    assert found() == [0, 1, 2]
    store.close()


def test_a_reader_keeps_its_snapshot(tmp_path):
    with Index.create(tmp_path / "x", FakeEncoder(DIM)) as index:
        index.add([record(0, "w1"), record(1, "w2")])
        with Searcher.open(tmp_path / "x") as searcher:
            index.add([record(0, "w3"), record(2, "w1")])
            index.compact()
            assert [hit.doc_id for hit in searcher.search("w1", mode="lexical")] == ["d0"]
            assert searcher.reload()
            assert not searcher.reload()
            assert [hit.doc_id for hit in searcher.search("w1", mode="lexical")] == ["d2"]


def test_deleted_words_leave_the_disk(tmp_path):
    with Index.create(tmp_path / "x", FakeEncoder(DIM)) as index:
        index.add([record(0, "unspeakable"), record(1, "speakable w1")])
        index.delete(["d0"])
        index.compact()
    database = b"".join(file.read_bytes() for file in (tmp_path / "x").glob("index.db*"))
    assert b"speakabl" in database
    assert b"unspeak" not in database


# Modes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[10**6, 300], ids=["flat", "compressed"])
def searcher(request, tmp_path_factory):
    """80 passages of ten words, n = 0, 1, ...; d3 and d4 deleted."""
    encoder = FakeEncoder(DIM)
    path = tmp_path_factory.mktemp("modes") / "x"
    with Index.create(path, encoder, flat_tokens=request.param) as index:
        index.add(corpus(80))
        index.delete(["d3", "d4"])
    with Searcher.open(path, encoder) as searcher:
        yield searcher


TEXTS = {d["doc_id"]: d["text"] for d in corpus(80) if d["doc_id"] not in ("d3", "d4")}


@pytest.mark.parametrize(
    ("text", "meets"),
    [
        (None, lambda n: True),
        ("n < 0", lambda n: False),
        ("n = 77", lambda n: n == 77),
        ("n < 40", lambda n: n < 40),
        ("n >= 0", lambda n: True),
    ],
)
def test_a_filter_holds_in_every_mode(searcher, text, meets):
    matching = {doc_id for doc_id in TEXTS if meets(int(doc_id[1:]))}
    for query in ("w1", "w2 w3 w4 w5", "w0 absent"):
        expected = {d: s for d, s in bm25(query, TEXTS).items() if d in matching}
        for k in (1, 10, 200):
            assert_ranked(searcher.search(query, k=k, mode="lexical", filter=text), expected, k)
            hits = searcher.search(query, k=k, mode="hybrid", filter=text)
            assert len(hits) == len({hit.doc_id for hit in hits}) == min(k, len(matching))
            assert {hit.doc_id for hit in hits} <= matching


@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
def test_of_equal_scores_the_least_doc_ids_are_among_the_k(tmp_path, mode):
    """Neither the order of adding nor that of replacing decides."""
    order = np.random.default_rng(0).permutation(40)
    names = [f"d{i:02}" for i in range(40)]
    with Index.create(tmp_path / "x", FakeEncoder(DIM)) as index:
        index.add({"doc_id": names[i], "text": "w1 w2"} for i in order)
        index.add([{"doc_id": "other", "text": "w3 w4"}])
        index.add({"doc_id": names[i], "text": "w2 w1"} for i in order[:15])
        for _ in range(2):
            with Searcher.open(tmp_path / "x", FakeEncoder(DIM)) as searcher:
                for k in (1, 5, 39):
                    assert [hit.doc_id for hit in searcher.search("w1", k=k, mode=mode)] == names[:k]
                    filtered = searcher.search("w1", k=k, mode=mode, filter="doc_id != 'd01'")
                    assert [hit.doc_id for hit in filtered] == [n for n in names if n != "d01"][:k]
            index.compact()


def test_hybrid_is_the_fusion_of_both(searcher):
    """Each score over the best of its kind, words weighing as the square root of their number."""
    queries = {"a": "w1 w2", "b": "w7 w8 w9 w10", "c": "w3 w3", "d": "absent"}
    for weights in (None, (1.0, 1.0), (0.3, 2.0), (1.0, 0.0), (0.0, 1.0)):
        hits = searcher.search_many(queries, k=20, mode="hybrid", weights=weights)
        for qid, query in queries.items():
            late = {hit.doc_id: hit.score for hit in searcher.search(query, k=40, mode="late")}
            words = bm25(query, TEXTS)
            last = sorted(words.values(), reverse=True)[:40][-1:] or [0]
            words = {
                doc_id: score for doc_id, score in words.items() if doc_id in late or score >= last[0] - 1e-9
            }
            expected = fusion(late, words, query, weights or (1, 0.25))
            assert_ranked(hits[qid], expected, 20)
            assert searcher.search(query, k=20, mode="hybrid", weights=weights) == hits[qid]
            if weights == (1.0, 0.0):
                assert [hit.doc_id for hit in hits[qid]] == list(late)[:20]
            if weights == (0.0, 1.0) and words:
                lexical = [hit.doc_id for hit in searcher.search(query, k=20, mode="lexical")]
                assert [hit.doc_id for hit in hits[qid]][: len(lexical)] == lexical


def test_fusion_by_hand():
    nan, none = math.nan, np.zeros(0)
    late, lexical = np.array([4.0, 3.0, nan, nan, nan]), np.array([0.0, 2.0, 1.0, 8.0, 4.0])
    waiting = np.array([False, False, False, True, True])
    np.testing.assert_allclose(
        fused(late, lexical, waiting, (1.0, 0.5)),
        [4, 3 + 0.5, 3 + 0.25, 4 + 2, 3 + 1],
    )
    # Scores below 0 and at 0 keep their order; a document without tokens is the last.
    both = np.array([False, False, False])
    found = fused(np.array([-1.0, -2.0, -np.inf]), np.zeros(3), both, (1.0, 1.0))
    np.testing.assert_allclose(found, [-1, -2, -2])
    found = fused(np.array([0.0, -2.0]), np.array([1.0, 2.0]), both[:2], (1.0, 1.0))
    np.testing.assert_allclose(found, [0.5, -1])
    # Nothing is encoded: words alone.
    np.testing.assert_allclose(
        fused(np.full(2, nan), np.array([1.0, 2.0]), np.array([True, True]), (1.0, 0.5)), [0.75, 1.5]
    )
    assert len(fused(none, none, none.astype(bool), (1.0, 1.0))) == 0


def test_words_weigh_by_their_number():
    assert words_weight("one of ten, two of ten") == pytest.approx(math.sqrt(3 / 10))
    assert words_weight(" ".join(f"word{i}" for i in range(40))) == 2
    assert words_weight("?") == 0


def test_what_is_not_encoded_yet_is_found_by_its_words(tmp_path):
    encoder = FakeEncoder(DIM)
    with Index.create(tmp_path / "x", encoder) as index:
        index.add([record(i, f"w{i % 4} w{i % 3 + 4}") for i in range(40)])
        index.add([record(50, "w9 w1 w10"), record(51, "w9 w8")], encode=False)
        with Searcher.open(tmp_path / "x", encoder) as searcher:
            hits = searcher.search("w10 w9", k=5, mode="hybrid")
            assert hits[0].doc_id == "d50"
            best = searcher.search("w10 w9", k=1, mode="late")[0].score
            assert hits[0].score == pytest.approx(best * (1 + 0.25 * math.sqrt(0.2)))
            assert "d51" in {hit.doc_id for hit in hits[:3]}
            assert hits.unencoded == 2
        index.encode()
        with Searcher.open(tmp_path / "x", encoder) as searcher:
            assert searcher.search("w10 w9", k=5, mode="hybrid")[0].doc_id == "d50"
            assert not searcher.search("w10 w9", mode="hybrid").unencoded


def test_what_is_searched_by_where_no_mode_is_given(searcher, tmp_path):
    """Both, where there are words and vectors of documents; vectors alone where there is no more."""
    assert searcher.mode() == "hybrid"
    assert searcher.search("w1 w2") == searcher.search("w1 w2", mode="hybrid")
    assert searcher.search("w1 w2", weights=(0.0, 1.0)) == searcher.search(
        "w1 w2", mode="hybrid", weights=(0.0, 1.0)
    )
    assert searcher.mode(by="passage") == "late"
    assert searcher.search("w1 w2", by="passage") == searcher.search("w1 w2", mode="late", by="passage")
    assert searcher.mode(mode="lexical") == "lexical"
    vectors = searcher.encode(["w1 w2"])[0]
    late = searcher.search("w1 w2", mode="late")
    found = searcher.search_embeddings(vectors, sharpness=searcher.scoring.sharpness)
    assert [(hit.doc_id, hit.score) for hit in found] == [(hit.doc_id, hit.score) for hit in late]
    for mode in ("hybrid", "lexical"):
        with pytest.raises(ArgumentError, match=f'mode="{mode}" needs a text'):
            searcher.search_embeddings(vectors, mode=mode)
        with pytest.raises(ArgumentError, match=f'mode="{mode}" has no exact ranking'):
            searcher.recall_vs_exact(["w1 w2"], mode=mode)
    encoder = FakeEncoder(DIM)
    with Index.create(tmp_path / "x", encoder) as index:
        index.add_embeddings(["a", "b"], encoder.encode_documents(["w1", "w2"]))
        with Searcher.open(tmp_path / "x", encoder) as bare:
            assert bare.mode() == "late"
            assert [hit.doc_id for hit in bare.search("w2")] == ["b", "a"]


def test_lexical_needs_no_encoder(tmp_path):
    vectors = TokenEmbeddings.from_list([np.eye(DIM, dtype=np.float32)[:2]] * 3, DIM)
    with Index.create(tmp_path / "x", dim=DIM) as index:
        index.add_embeddings(["a", "b", "c"], vectors, texts=["w1 w2", None, "w2"])
        index.delete(["b"])
    with Searcher.open(tmp_path / "x") as searcher:
        assert [hit.doc_id for hit in searcher.search("w1 w2", mode="lexical")] == ["a", "c"]
        with pytest.raises(ArgumentError, match="names no encoder; search with mode"):
            searcher.search("w1", mode="hybrid")


def test_an_empty_index_has_no_hits(tmp_path):
    with Index.create(tmp_path / "x", FakeEncoder(DIM)) as index:
        index.compact()
    with Searcher.open(tmp_path / "x", FakeEncoder(DIM)) as searcher:
        for mode in ("late", "lexical", "hybrid"):
            assert searcher.search("w1", mode=mode) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "bm25"}, "mode='bm25'; pass one of late, lexical, hybrid"),
        ({"mode": "lexical", "nprobe": 3}, 'nprobe=3 does nothing in mode "lexical"; leave it out'),
        ({"mode": "late", "weights": (1, 1)}, 'weights=.* does nothing in mode "late"; pass mode="hybrid"'),
        ({"mode": "hybrid", "weights": (1, -1)}, "pass two numbers >= 0"),
        ({"mode": "hybrid", "weights": (0, 0)}, "not both 0"),
        ({"mode": "hybrid", "weights": (1, math.nan)}, r"weights\[1\]=nan; pass a finite number"),
        ({"mode": "hybrid", "weights": (1,)}, "pass two numbers >= 0"),
        ({"mode": "hybrid", "weights": 2}, "weights is int; pass a list of numbers"),
        ({"mode": "hybrid", "weights": ("1", 1)}, r"weights\[0\]='1' is str; pass a number"),
        ({"mode": "lexical", "k": 0}, "k=0; pass k >= 1"),
        ({"mode": "hybrid", "k": 10, "nrerank": 5}, "nrerank=5 is below k=10"),
    ],
)
def test_settings_that_cannot_work_are_refused(searcher, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        searcher.search("w1", **arguments)


def test_small_knobs_work_with_hybrid(searcher):
    assert len(searcher.search("w1", k=5, mode="hybrid", nrerank=20)) == 5
    assert len(searcher.search("w1", k=5, mode="hybrid", ncandidates=20)) == 5


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["parseHTTP2", "max_line", "Café", "l'eau", "東京", " ", "\n", "x"]), max_size=9
    ),
    st.sets(st.sampled_from(["parse", "parsehttp2", "line", "café", "eau", "東京"])),
)
def test_words_that_are_wanted_stand_where_they_stand_among_all(parts, wanted):
    text = "".join(parts)

    def some(spans):
        return [(start, stop) for start, stop in spans if text[start:stop].lower() in wanted]

    assert some(word_spans(text, wanted)) == some(word_spans(text))
