"""Importing vectors: ids and texts from a corpus, the encoder that made them, the commands."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from encoder import Encoder, TokenEmbeddings
from encoder.errors import ArgumentError, CorpusError
from indexing import Index, VectorBatch, VectorSource, export_vectors, open_vectors
from retriever import ImportOptions, Searcher, import_index
from retriever.agreement import Queries
from retriever.cli import app
from tests.helpers.fakes import FakeEncoder, contents, corpus
from tests.helpers.peers import Coded, write_fast_plaid, write_ragatouille, write_stanford


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Vectors of four documents by an encoder of 8 dimensions, without ids."""
    made = FakeEncoder(8).encode_documents([document["text"] for document in corpus(4)])
    save_file({"vectors": made.vectors, "offsets": made.offsets}, tmp_path / "bare.safetensors")
    return tmp_path / "bare.safetensors"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    lines = (json.dumps(document) for document in corpus(4))
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    return tmp_path / "corpus.jsonl"


def test_a_source_without_ids_takes_them_from_its_corpus_in_order(
    tmp_path: Path, bare: Path, texts: Path
) -> None:
    encoder = FakeEncoder(8)
    report = import_index(bare, tmp_path / "x.index", ImportOptions(texts=texts), encoder=encoder)
    assert (report.kind, report.documents, report.tokens, report.textless) == ("safetensors", 4, 40, 0)
    with (
        Index.create(tmp_path / "expected.index", encoder) as expected,
        Index.open(tmp_path / "x.index") as index,
    ):
        expected.add(corpus(4))
        found, wanted = contents(index), contents(expected)
        assert found.keys() == wanted.keys()
        for doc_id, (text, metadata, vectors) in wanted.items():
            assert found[doc_id][:2] == (text, metadata)
            np.testing.assert_array_equal(found[doc_id][2], vectors)
    with Searcher.open(tmp_path / "x.index", encoder) as searcher:
        assert searcher.search(corpus(4)[2]["text"], k=1)[0].doc_id == "d2"


def test_without_a_corpus_places_are_ids(tmp_path: Path, bare: Path) -> None:
    report = import_index(bare, tmp_path / "x.index")
    assert report.textless == 4
    with Index.open(tmp_path / "x.index") as index:
        assert [(d.doc_id, d.text) for d in index] == [(str(i), None) for i in range(4)]


def test_a_corpus_of_another_length_is_refused(tmp_path: Path, bare: Path, texts: Path) -> None:
    texts.write_text(texts.read_text().rsplit("\n", 1)[0])
    with pytest.raises(
        ArgumentError, match=r"has 3 documents, and the source, which keeps no ids, 4; pass the corpus"
    ):
        import_index(bare, tmp_path / "x.index", ImportOptions(texts=texts))
    assert not (tmp_path / "x.index").exists()
    texts.write_text(texts.read_text() + "\n" + texts.read_text().split("\n")[0])
    with pytest.raises(CorpusError, match=r"corpus.jsonl has two documents of one id"):
        import_index(bare, tmp_path / "x.index", ImportOptions(texts=texts))


def test_documents_of_one_id_are_told(tmp_path: Path) -> None:
    rows = {"doc_id": ["a", "b", "a"], "vectors": [np.eye(4)[i : i + 1].tolist() for i in range(3)]}
    pq.write_table(pa.table(rows), tmp_path / "v.parquet")
    report = import_index(tmp_path / "v.parquet", tmp_path / "x.index")
    assert (report.documents, report.notes) == (2, ("1 documents took the place of others of their ids",))
    assert import_index(tmp_path / "v.parquet", tmp_path / "y.index", ImportOptions(check=0)).documents == 2


def test_a_source_with_ids_takes_texts_by_them(tmp_path: Path) -> None:
    """In another order; what the source has itself stays; what the corpus has more is named."""
    with Index.create(tmp_path / "a.index", dim=4) as index:
        arrays = [np.eye(4)[i : i + 1] for i in range(3)]
        index.add_embeddings(["a", "b", "c"], arrays, ["own", None, None], [None, {"n": 1}, None])
        export_vectors(index, tmp_path / "v.parquet")
    lines = [{"_id": "z", "text": "Z"}, {"_id": "b", "text": "B", "m": 2}, {"_id": "a", "text": "A", "m": 3}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = import_index(
        tmp_path / "v.parquet", tmp_path / "x.index", ImportOptions(texts=tmp_path / "corpus.jsonl")
    )
    assert report.textless == 1
    assert report.notes == (
        f"1 documents of {tmp_path / 'corpus.jsonl'} have no vectors in the source and were left out",
    )
    with Index.open(tmp_path / "x.index") as index:
        found = {document.doc_id: (document.text, document.metadata) for document in index}
    assert found == {"a": ("own", {"m": 3}), "b": ("B", {"n": 1}), "c": (None, {})}


def test_an_encoder_that_did_not_make_the_vectors_is_refused(tmp_path: Path, bare: Path) -> None:
    with pytest.raises(ArgumentError, match=r"encoder 'fake' has dim=16, the vectors have dim=8"):
        import_index(bare, tmp_path / "x.index", encoder=FakeEncoder(16))
    with Index.create(tmp_path / "a.index", FakeEncoder(8)) as index:
        index.add(corpus(3))
        export_vectors(index, tmp_path / "v.parquet")
    with pytest.raises(ArgumentError, match=r"encoder 'fake' \(.*\) did not make these vectors, 'fake' did"):
        import_index(tmp_path / "v.parquet", tmp_path / "x.index", encoder=FakeEncoder(8, seed=1))
    report = import_index(tmp_path / "v.parquet", tmp_path / "x.index")
    assert report.notes == ("the vectors were made by 'fake'; pass --encoder fake to search by texts",)


@pytest.mark.slow
def test_an_import_goes_on_where_it_was_stopped(tmp_path: Path, bare: Path, texts: Path) -> None:
    options = ImportOptions(texts=texts)
    first = import_index(bare, tmp_path / "x.index", options)
    with Index.open(tmp_path / "x.index", writable=True) as index:
        before = index._now.n_passages, contents(index)["d1"][2].tolist()
        index.delete(["d0"])
    assert import_index(bare, tmp_path / "x.index", options) == first
    with Index.open(tmp_path / "x.index") as index:
        assert (index._now.n_passages, contents(index)["d1"][2].tolist()) == before
    with Index.create(tmp_path / "y.index", dim=4):
        pass
    with pytest.raises(ArgumentError, match=r"y.index has dim=4, the vectors have dim=8; pass a new path"):
        import_index(bare, tmp_path / "y.index")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v.safetensors", "v.parquet", "v.arrow", "vectors"])
def test_the_commands_go_there_and_back(tmp_path: Path, name: str) -> None:
    texts = {"heart": "The heart pumps blood.", "bank": "The central bank raised interest rates."}
    with Index.create(tmp_path / "a.index", Encoder.load()) as index:
        index.add({"doc_id": i, "text": t, "metadata": {"of": i}} for i, t in texts.items())
        tokens = index.n_tokens
    result = run("export", tmp_path / "a.index", "--out", tmp_path / name)
    assert result.output == f"{tmp_path / name}: 2 documents\n"
    result = run("import", tmp_path / name, "--out", tmp_path / "b.index", "--encoder", "bundled")
    assert result.exit_code == 0, result.output
    assert f"b.index: 2 documents, 2 passages, {tokens} tokens, from " in result.output
    assert "note" not in result.output
    found = json.loads(
        run("search", tmp_path / "b.index", "who sets the cost of borrowing?", "--json").output
    )
    expected = json.loads(
        run("search", tmp_path / "a.index", "who sets the cost of borrowing?", "--json").output
    )
    assert found == expected
    assert found[0]["doc_id"] == "bank"


# Other libraries' indexes -------------------------------------------------------------------------------------


def _vectors(n: int = 60, dim: int = 16) -> list[Any]:
    random = np.random.default_rng(0)
    rows = [random.standard_normal((5 + i % 7, dim)).astype(np.float32) for i in range(n)]
    return [own / np.linalg.norm(own, axis=1, keepdims=True) for own in rows]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float16", "codes"])
def test_an_imported_index_finds_what_its_source_does(tmp_path: Path, kind: str) -> None:
    """The recall that is reported is that of a plain loop over the source's decoded vectors."""
    made = Coded(_vectors(200))
    encoder = FakeEncoder(16)
    flat = {"float16": 1 << 30, "codes": 256}[kind]
    with Index.create(tmp_path / "x.index", encoder, flat_tokens=flat):
        pass
    report = import_index(write_fast_plaid(tmp_path / "x", made), tmp_path / "x.index", encoder=encoder)
    assert (report.kind, report.documents, report.textless) == ("fast-plaid", 200, 200)
    rows = made.decoded(unit=True)
    queries = Queries(20)
    assert sum(len(batch) for batch in queries.passing(open_vectors(tmp_path / "x").batches())) == 200
    found = []
    with Searcher.open(tmp_path / "x.index", encoder) as searcher:
        assert searcher.snapshot.codec is not None or kind == "float16"
        for query in queries.vectors:
            exact = sorted(range(200), key=lambda i: -(query @ rows[i].T).max(axis=1).sum())[:10]
            assert exact[0] in [i for i, own in enumerate(rows) if (own == query[0]).all(axis=1).any()]
            hits = searcher.search_embeddings(query, k=10)
            found.append(sum(int(hit.doc_id) in exact for hit in hits) / 10)
    assert queries.recall(tmp_path / "x.index") == pytest.approx(np.mean(found))
    assert report.recall is not None
    assert report.recall >= (1 if kind == "float16" else 0.9)


def test_ragatouille_comes_with_texts_ids_and_metadata(tmp_path: Path) -> None:
    names = {i: f"doc{i // 3}" for i in range(60)}
    texts = [f"passage {i} says w{i}" for i in range(60)]
    folder = write_ragatouille(tmp_path / "x", Coded(_vectors()), names, texts, {"doc4": {"year": 1999}})
    result = run("import", folder, "--out", tmp_path / "x.index")
    assert result.exit_code == 0, result.output
    assert "20 documents, 60 passages" in result.output
    assert "1.000 of the ten best by the source's own scores are found" in result.output
    assert (
        "the vectors were made by 'colbert-ir/colbertv2.0'; pass --encoder colbert-ir/colbertv2.0"
        in result.output
    )
    with Searcher.open(tmp_path / "x.index") as searcher:
        hit = searcher.search("w14", mode="lexical", filter="year = 1999")[0]
        assert (hit.doc_id, hit.metadata) == ("doc4", {"year": 1999})
        hit = searcher.search_embeddings(Coded(_vectors()).decoded(unit=True)[13], k=1)[0]
        assert (hit.doc_id, hit.passage.text) == ("doc4", "passage 13 says w13")


def test_a_token_takes_as_many_bytes_as_in_the_source(tmp_path: Path, bare: Path) -> None:
    """A place of 4 bytes and 16 a bit of 128 dimensions, from 20 to 48; where vectors are whole, 20."""

    def size(source: Path, name: str, **options: Any) -> int:
        import_index(source, tmp_path / name, ImportOptions(**options))
        with Index.open(tmp_path / name) as index:
            return index.settings.bytes_per_token

    for nbits, expected in ((1, 20), (2, 36), (4, 48)):
        made = Coded(_vectors(), nbits=nbits)
        assert size(write_fast_plaid(tmp_path / f"s{nbits}", made), f"{nbits}.index") == expected
    assert size(tmp_path / "s4", "chosen.index", bytes_per_token=32) == 32
    assert size(tmp_path / "s4", "chosen.index") == 32
    with pytest.raises(ArgumentError, match=r"was made with bytes_per_token=32, not 20; leave it out, or"):
        size(tmp_path / "s4", "chosen.index", bytes_per_token=20)
    assert size(bare, "bare.index") == 20


def test_colbert_takes_its_texts_from_the_tsv_it_was_made_of(tmp_path: Path) -> None:
    folder = write_stanford(tmp_path / "x", Coded(_vectors()), removed=[3])
    lines = [f"{i}\tpassage {i}" + (f"\ttitle {i}" if i == 5 else "") for i in range(60)]
    (tmp_path / "collection.tsv").write_text("\n".join(lines) + "\n")
    options = ImportOptions(texts=tmp_path / "collection.tsv")
    report = import_index(folder, tmp_path / "x.index", options)
    assert (report.documents, report.textless, report.recall) == (59, 0, 1.0)
    assert any("1 documents of" in note and "have no vectors" in note for note in report.notes)
    with Index.open(tmp_path / "x.index") as index:
        assert (index["4"].text, index["5"].text, "3" in index) == ("passage 4", "title 5 | passage 5", False)
    with Searcher.open(tmp_path / "x.index") as searcher:
        hit = searcher.search_embeddings(Coded(_vectors()).decoded(unit=True)[5], k=1)[0]
        assert (hit.doc_id, hit.passage.text) == ("5", "title 5 | passage 5")
    (tmp_path / "collection.tsv").write_text("0\tone\nno tab\n")
    with pytest.raises(CorpusError, match=r"collection.tsv:2 has no number and passage"):
        import_index(folder, tmp_path / "y.index", options)


@pytest.mark.parametrize(("ahead", "drawn"), [(1, 10), (150, 20), (1 << 20, 20)])
def test_a_source_is_read_once_its_recall_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, drawn: int
) -> None:
    """Queries are of the first documents, and what is best for them is of all, whichever batch it came in."""
    rows = _vectors(200)
    batches = [
        VectorBatch([str(i) for i in range(at, at + 10)], TokenEmbeddings.from_list(rows[at : at + 10], 16))
        for at in range(0, 200, 10)
    ]
    read = []

    def passing() -> Iterator[VectorBatch]:
        for batch in batches:
            read.append(batch)
            yield batch

    monkeypatch.setattr("retriever.agreement.AHEAD", ahead)
    queries = Queries(20)
    assert list(queries.passing(passing())) == batches
    assert len(read) == 20
    assert len(queries.vectors) == drawn
    for query, best in zip(queries.vectors, queries.best, strict=True):
        scores = {str(i): float((query @ own.T).max(axis=1).sum()) for i, own in enumerate(rows)}
        expected = sorted(scores.items(), key=lambda pair: -pair[1])[:10]
        assert [doc_id for doc_id, _ in best] == [doc_id for doc_id, _ in expected]
        assert [score for _, score in best] == pytest.approx([score for _, score in expected], abs=1e-5)

    read.clear()
    source = VectorSource("rows", 16, passing, 200)
    monkeypatch.setattr("retriever.importing.open_vectors", lambda _: source)
    assert import_index("rows", tmp_path / "x.index").recall == 1.0
    assert len(read) == 20


def test_recall_is_measured_unless_it_is_not_wanted(tmp_path: Path, bare: Path) -> None:
    assert import_index(bare, tmp_path / "a.index", ImportOptions(check=0)).recall is None
    assert import_index(bare, tmp_path / "c.index", ImportOptions(check=2)).recall == 1.0
    with pytest.raises(ArgumentError, match=r"check=-1; pass check >= 0"):
        ImportOptions(check=-1)
