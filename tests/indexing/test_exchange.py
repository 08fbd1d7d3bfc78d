"""Vectors in files and tables: what is written is read again, what others write is read, what is wrong is refused."""

import json
import resource
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file, save_file

from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError, CorpusError, MissingDependencyError, StorageError
from indexing import AddReport, Index, VectorBatch, export_vectors, open_vectors
from indexing.exchange import source as source_module
from tests.helpers.fakes import FakeEncoder, corpus

NAMES = ["vectors", "v.safetensors", "v.parquet", "v.arrow"]


def rows(index: Index) -> dict[str, Any]:
    """doc_id → text, metadata, and of each passage its span, vectors and token ids."""
    with index.snapshot() as now:
        parts: dict[int, list[Any]] = {}
        for segment, live in zip(now.segments, now.lives, strict=True):
            for place in np.flatnonzero(live).tolist():
                tokens = slice(*segment.offsets[place : place + 2].tolist())
                vectors = segment.decode(tokens.start, tokens.stop, now.codec).tolist()
                ids = segment.token_ids(tokens, now.codec)
                known = [-1] * len(vectors) if ids is None else ids.tolist()
                own = (segment.spans[place].tolist(), vectors, known)
                parts.setdefault(int(segment.owners[place]), []).append(own)
        documents = now.reader.stream("doc_id, text, metadata")
        return {i: (text, json.loads(meta), parts.get(number, [])) for number, i, text, meta in documents}


def imported(path: Path, source: Any, **settings: Any) -> dict[str, Any]:
    found = open_vectors(source)
    with Index.create(path, dim=found.dim, **settings) as index:
        index.add_batches(found.batches(), total=found.documents)
        assert len(index) == found.documents or found.documents is None
        return rows(index)


@pytest.fixture
def mixed(tmp_path: Path) -> Any:
    """Long documents in windows, one deleted, one replaced, one empty, one without text, one not encoded."""
    encoder = FakeEncoder(8, document_length=6, windows=True, gives_ids=True)
    with Index.create(tmp_path / "mixed.index", encoder, window=6, overlap=2, commit_tokens=60) as index:
        index.add(corpus(30))
        index.add([{"doc_id": "d4", "text": "é w1 'w2'", "metadata": {"n": [1, None, {"a": "ü"}]}}])
        index.delete(["d7"])
        index.add([{"doc_id": "empty", "text": ""}])
        index.add_embeddings(["bare"], [np.eye(8)[:3]])
        index.add([{"doc_id": "later", "text": "w1 w2"}], encode=False)
        yield index


@pytest.mark.parametrize("name", NAMES)
def test_what_is_exported_is_imported_again(tmp_path: Path, mixed: Index, name: str) -> None:
    expected = rows(mixed)
    assert {len(own[2]) for own in expected.values()} >= {0, 1, 2}
    assert export_vectors(mixed, tmp_path / name) == len(mixed) == 32
    assert imported(tmp_path / "again.index", tmp_path / name) == expected
    found = open_vectors(tmp_path / name)
    assert (found.encoder, found.fingerprint) == (mixed.settings.encoder, mixed.settings.encoder_fingerprint)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_codes_are_exported_as_they_decode(tmp_path: Path, name: str) -> None:
    with Index.create(tmp_path / "x.index", FakeEncoder(16, gives_ids=True), flat_tokens=300) as index:
        index.add(corpus(60))
        expected = rows(index)
        assert index.info()["kind"] == "compressed"
        export_vectors(index, tmp_path / name)
    found = imported(tmp_path / "again.index", tmp_path / name, flat_tokens=1 << 30)
    for doc_id, (text, metadata, [(span, vectors, ids)]) in expected.items():
        half = np.array(vectors, np.float16).astype(np.float32).tolist()
        assert found[doc_id] == (text, metadata, [(span, half, ids)])


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_chooses_what_is_exported(tmp_path: Path, mixed: Index, name: str) -> None:
    mixed.update_metadata({"d1": {"kept": 1}, "later": {"kept": 1}, "d2": {"kept": 2}})
    assert export_vectors(mixed, tmp_path / name, filter="kept = 1") == 2
    expected = {doc_id: own for doc_id, own in rows(mixed).items() if doc_id in ("d1", "later")}
    assert imported(tmp_path / "again.index", tmp_path / name) == expected


@pytest.mark.parametrize("name", NAMES)
def test_documents_whose_vectors_are_to_come_go_there_and_back(
    tmp_path: Path, mixed: Index, name: str
) -> None:
    assert export_vectors(mixed, tmp_path / name, filter="doc_id = 'later'") == 1
    assert imported(tmp_path / "again.index", tmp_path / name) == {"later": rows(mixed)["later"]}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_empty_behind_what_is_long_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module.cut, "__defaults__", (2,))
    with Index.create(tmp_path / "x.index", dim=8) as index:
        index.add_embeddings(["long", "empty"], [np.eye(8), np.zeros((0, 8))])
        export_vectors(index, tmp_path / name)
        assert imported(tmp_path / "again.index", tmp_path / name) == rows(index)


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_refuses_is_told_and_leaves_no_part(tmp_path: Path, mixed: Index, name: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # a real failure to write, of a real file
    try:
        with pytest.raises(StorageError, match=rf"{name} cannot be written \(.*; free space on that disk"):
            export_vectors(mixed, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in left} == {"mixed.index"}
    assert export_vectors(mixed, tmp_path / name) == len(mixed)


def test_a_plain_table_of_anyone_is_read(tmp_path: Path) -> None:
    """Lists of lists, float64, integers as ids, texts in part: as add_embeddings stores the same arrays."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((n, 4)) for n in (3, 0, 5, 1)]
    texts = ["one", None, "three", "four"]
    table = pa.table({"id": [7, 8, 9, 10], "text": texts, "embeddings": [own.tolist() for own in arrays]})
    pq.write_table(table, tmp_path / "x.parquet")
    with Index.create(tmp_path / "expected.index", dim=4) as index:
        index.add_embeddings(["7", "8", "9", "10"], arrays, texts)
        expected = rows(index)
    assert imported(tmp_path / "a.index", tmp_path / "x.parquet") == expected
    assert imported(tmp_path / "b.index", table) == expected
    assert imported(tmp_path / "c.index", table.slice(1, 2)) == {i: expected[i] for i in ("8", "9")}


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_vectors_and_offsets_alone_are_enough(tmp_path: Path, kind: torch.dtype) -> None:
    vectors = torch.arange(24).reshape(6, 4).to(kind)
    safetensors.torch.save_file(
        {"vectors": vectors, "offsets": torch.tensor([0, 2, 2, 6])}, tmp_path / "x.safetensors"
    )
    found = open_vectors(tmp_path / "x.safetensors")
    assert (found.dim, found.documents, found.places) == (4, 3, 3)
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "vectors.npy", vectors.float().numpy())
    np.save(tmp_path / "npy" / "offsets.npy", np.array([0, 2, 2, 6], np.int32))
    expected = imported(tmp_path / "a.index", tmp_path / "npy")
    assert imported(tmp_path / "b.index", tmp_path / "x.safetensors") == expected
    assert [len(own[2][0][1]) for own in expected.values()] == [2, 0, 4]
    for junk in ("{", "[]", '{"encoder": 3}', '{"encoder": "{"}'):
        (tmp_path / "npy" / "about.json").write_text(junk)
        if junk == "{":
            with pytest.raises(CorpusError, match=r"about.json cannot be read .*; leave it out"):
                open_vectors(tmp_path / "npy")
        else:
            assert open_vectors(tmp_path / "npy").encoder is None
    assert expected["2"][2][0][1][-1] == [20, 21, 22, 23]


def test_exported_safetensors_are_what_its_own_library_reads(tmp_path: Path, mixed: Index) -> None:
    export_vectors(mixed, tmp_path / "v.safetensors")
    arrays = load_file(tmp_path / "v.safetensors")
    assert {name: array.dtype for name, array in arrays.items()} == {
        "offsets": np.int64, "owners": np.int64, "spans": np.int32, "token_ids": np.int32, "vectors": np.float16,
    }  # fmt: skip
    first = rows(mixed)["d0"][2]
    assert arrays["vectors"][: arrays["offsets"][1]].tolist() == first[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_neither_way_holds_more_than_some_of_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, tokens, dim = 1500, 200, 16  # 19 MB in float32
    random = np.random.default_rng(0)
    with Index.create(tmp_path / "x.index", dim=dim, flat_tokens=1 << 30) as index:
        for start in range(0, n, 500):
            vectors = random.standard_normal((500 * tokens, dim), np.float32)
            offsets = np.arange(501) * tokens
            index.add_embeddings(map(str, range(start, start + 500)), TokenEmbeddings(vectors, offsets))
        del vectors
        tracemalloc.start()
        export_vectors(index, tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 8e6  # a batch is 2 MB in float32
        tracemalloc.reset_peak()
        for batch in open_vectors(tmp_path / name).batches():
            assert len(batch.embeddings.vectors) <= source_module.BATCH_TOKENS
        assert tracemalloc.get_traced_memory()[1] < 10e6
        tracemalloc.stop()


@pytest.mark.slow
def test_a_stream_trains_its_codec_on_all_of_it(tmp_path: Path) -> None:
    """As one add of everything does, byte for byte."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((20, 8)).astype(np.float32) for _ in range(100)]
    ids = [str(i) for i in range(100)]
    found = []
    for batches in ([(0, 100)], [(0, 30), (30, 31), (31, 100)]):
        parts = [VectorBatch.made(ids[a:b], arrays[a:b], None, None, 8) for a, b in batches]
        with Index.create(
            tmp_path / f"{len(batches)}.index", dim=8, flat_tokens=1000, commit_tokens=500
        ) as index:
            assert index.add_batches(parts) == AddReport(added=100, passages=100, tokens=2000)
            assert index.info()["kind"] == "compressed"
            found.append(rows(index))
    assert found[0] == found[1]


def _safetensors(path: Path, **changes: Any) -> Path:
    arrays = {"vectors": np.zeros((6, 4), np.float32), "offsets": np.array([0, 2, 6])} | changes
    save_file({name: array for name, array in arrays.items() if array is not None}, path / "x.safetensors")
    return path / "x.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": None}, r"x.safetensors: vectors is missing, there is offsets; give vectors and offsets"),
        ({"vectors": np.zeros(6, np.float32)}, r"vectors has shape \(6,\); give it \(n_tokens, dim\)"),
        ({"offsets": np.array([0, 2, 5])}, r"offsets runs from 0 to 5, and there are 6 vectors"),
        ({"offsets": np.array([0, 5, 2, 6])}, "give it cumulative counts of tokens"),
        ({"offsets": np.array([0.0, 6.0])}, r"holds float64 of shape \(2,\)"),
        ({"token_ids": np.zeros(5, np.int32)}, r"token_ids has shape \(5,\); give it \(6,\)"),
        ({"owners": np.array([1, 0])}, "owners does not ascend from 0"),
        ({"spans": np.zeros((2, 3), np.int32)}, r"spans has shape \(2, 3\); give it \(2, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(open_vectors(_safetensors(tmp_path, **changes)).batches())


def test_a_span_outside_its_text_is_refused(tmp_path: Path) -> None:
    path = _safetensors(tmp_path, spans=np.array([[0, 1], [2, 9]], np.int32))
    path.with_suffix(".jsonl").write_text('{"doc_id": "a", "text": "abc"}\n{"doc_id": "b", "text": "abcd"}\n')
    with pytest.raises(ArgumentError, match=r"'b' has a passage at \[\[2, 9\]\] of a text of 4 characters"):
        imported(tmp_path / "x.index", path)
    path.with_suffix(".jsonl").write_text('{"doc_id": "a", "text": "abc"}\n')
    with pytest.raises(CorpusError, match=r"x.jsonl has 1 documents, .* has 2 passages; give a line to each"):
        open_vectors(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": ["a"], "text": ["b"]}, "has the columns id, text; give it one called vectors"),
        ({"vectors": [[[1.0]]]}, "has the columns vectors; give it one called doc_id"),
        ({"id": ["a"], "vectors": [[1.0, 2.0]]}, "vectors is list<.*double>; give it a list of lists of numbers"),
        ({"id": ["a"], "vectors": ["x"]}, "vectors is string"),
        ({"id": ["a", "b"], "vectors": [[[1.0, 2.0]], [[1.0]]]}, r"from 0: vectors has vectors of \{1, 2\} numbers"),
        ({"id": ["a"], "vectors": [[[1.0, None]]]}, "vectors has a null; give numbers"),
        ({"id": ["a"], "vectors": [[[1.0]]], "token_ids": [[1, 2]]}, "token_ids has not one for each vector"),
        ({"id": ["a"], "vectors": [[[1.0]]], "metadata": ["{"]}, "metadata '{' is not JSON"),
        ({"id": ["a"], "vectors": pa.array([[]], pa.list_(pa.list_(pa.float32())))}, "has no vector in vectors"),
        ({"id": ["a"], "vectors": [[[1.0]]], "passages": [[1]]}, "passages is list<.*int64>; give it a list"),
        ({"id": ["a"], "vectors": [[[1.0]]], "token_ids": ["x"]}, "token_ids is string; give it a list of integers"),
        (
            {"id": ["a"], "vectors": [[[1.0]]], "passages": [[{"tokens": 2, "start": 0, "end": 0}]]},
            "the tokens of passages do not add up",
        ),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(open_vectors(pa.table(table)).batches())


@pytest.mark.parametrize("name", ["x.safetensors", "x.parquet", "x.arrow", "vectors/vectors.npy"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04no such thing", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}"])
def test_files_that_are_damaged_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    np.save(path.parent / "offsets.npy", np.array([0, 2]))
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"cannot be read .*write it anew"):
        open_vectors(path.parent if path.suffix == ".npy" else path)


def test_what_is_no_vectors_is_refused_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nothing does not exist; pass a .safetensors, .parquet"):
        open_vectors(tmp_path / "nothing")
    with pytest.raises(CorpusError, match=r"is no folder of vectors; pass .* a folder with vectors.npy"):
        open_vectors(tmp_path)
    with Index.create(tmp_path / "x.index", dim=4):
        pass
    with pytest.raises(CorpusError, match=r"x.index is an index of Latewood; search it"):
        open_vectors(tmp_path / "x.index")
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(CorpusError, match=r"x.csv is of no known form"):
        open_vectors(tmp_path / "x.csv")


def test_an_export_takes_the_place_of_nothing(tmp_path: Path, mixed: Index) -> None:
    (tmp_path / "v.parquet").write_text("mine")
    with pytest.raises(ArgumentError, match=r"v.parquet exists; pass a new path"):
        export_vectors(mixed, tmp_path / "v.parquet")
    (tmp_path / "v.jsonl").write_text("mine")
    with pytest.raises(ArgumentError, match=r"v.jsonl exists; pass a new path"):
        export_vectors(mixed, tmp_path / "v.safetensors")
    with pytest.raises(
        ArgumentError, match=r"out='.*v.csv' is of no known form; pass a name that ends in .safeten"
    ):
        export_vectors(mixed, tmp_path / "v.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed.index", "v.jsonl", "v.parquet"]


def test_tables_without_pyarrow_say_which_extra(
    tmp_path: Path, mixed: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'latewood\[arrow\]'"):
        export_vectors(mixed, tmp_path / "v.parquet")
