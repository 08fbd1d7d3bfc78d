"""Indexes of other libraries: what they hold is read as they score it; what is damaged or malicious is refused."""

import json
import os
import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoder.errors import CorpusError
from indexing import VectorSource, open_vectors
from indexing.exchange.source import BATCH_TOKENS
from tests.helpers.peers import (
    Coded,
    write_fast_plaid,
    write_pylate,
    write_ragatouille,
    write_stanford,
    write_xtr_warp,
)

WRITERS: dict[str, Callable[[Path, Coded], Path]] = {
    "Stanford ColBERT": write_stanford,
    "fast-plaid": write_fast_plaid,
    "xtr-warp-rs": write_xtr_warp,
}


def coded(n: int = 12, dim: int = 16, **options: Any) -> Coded:
    random = np.random.default_rng(0)
    vectors = [random.standard_normal((3 + i % 5, dim)).astype(np.float32) for i in range(n)]
    return Coded([own / np.linalg.norm(own, axis=1, keepdims=True) for own in vectors], **options)


def read(source: VectorSource) -> dict[str, tuple[str | None, Any, list[Any], list[Any]]]:
    """doc_id → text, metadata, and its passages' vectors and spans."""
    found = {}
    for batch in source.batches():
        for i, doc_id in enumerate(batch.doc_ids):
            own = range(*batch.starts[i : i + 2])
            assert batch.texts is not None
            assert batch.metadata is not None
            spans = [] if batch.spans is None else [batch.spans[j].tolist() for j in own]
            found[doc_id] = batch.texts[i], batch.metadata[i], [batch.embeddings[j] for j in own], spans
    assert source.documents == len(found)
    return found


def assert_vectors(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for doc_id, vectors in expected.items():
        np.testing.assert_allclose(np.concatenate(found[doc_id][2]), vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", WRITERS)
def test_vectors_are_what_the_library_decodes(tmp_path: Path, kind: str, nbits: int) -> None:
    """Of unit length but for xtr-warp-rs, which adds a centroid's score and a residual's."""
    made = coded(nbits=nbits)
    source = open_vectors(WRITERS[kind](tmp_path / "x", made))
    assert (source.kind, source.dim, source.places, source.lost) == (kind, 16, 12, ())
    expected = made.decoded(unit=kind != "xtr-warp-rs")
    assert_vectors(read(source), {str(i): own for i, own in enumerate(expected)})
    stored = np.concatenate(expected)
    assert np.abs(np.linalg.norm(stored, axis=1) - 1).max() < 1e-6 or kind == "xtr-warp-rs"


@pytest.mark.parametrize("merged", [0, 1, 2, 3])
def test_fast_plaid_chunks_are_read_where_they_lie(tmp_path: Path, merged: int) -> None:
    made = coded(n_chunks=3)
    source = open_vectors(write_fast_plaid(tmp_path / "x", made, merged=merged))
    assert_vectors(read(source), {str(i): own for i, own in enumerate(made.decoded(unit=True))})


def test_fast_plaid_keeps_its_metadata(tmp_path: Path) -> None:
    metadata = [{"year": 2000 + i, "title": f"t{i}", "gone": None} for i in range(12)]
    found = read(open_vectors(write_fast_plaid(tmp_path / "x", coded(), metadata=metadata)))
    assert [own[1] for own in found.values()] == [{"year": 2000 + i, "title": f"t{i}"} for i in range(12)]


def test_what_xtr_warp_has_deleted_stays_away(tmp_path: Path) -> None:
    made = coded()
    source = open_vectors(write_xtr_warp(tmp_path / "x", made, deleted=[7, 14], first=5))
    expected = {str(i + 5): own for i, own in enumerate(made.decoded(unit=False)) if i + 5 not in (7, 14)}
    assert_vectors(read(source), expected)
    assert source.places == 17
    (tmp_path / "x" / "metadata.duckdb").write_bytes(b"")
    assert "metadata.duckdb, which only DuckDB reads" in open_vectors(tmp_path / "x").lost[0]


@pytest.mark.parametrize("zipped", [True, False])
def test_what_colbert_has_removed_keeps_its_number(tmp_path: Path, zipped: bool) -> None:
    made = coded()
    source = open_vectors(write_stanford(tmp_path / "x", made, removed=[0, 6], zipped=zipped))
    assert (source.places, source.encoder) == (12, {"name": "colbert-ir/colbertv2.0"})
    assert_vectors(
        read(source), {str(i): own for i, own in enumerate(made.decoded(unit=True)) if i not in (0, 6)}
    )


def test_ragatouille_documents_have_the_passages_they_were_cut_into(tmp_path: Path) -> None:
    """Of "b" one more came later; "gone" was deleted, and the collection closed up behind it."""
    made = coded(8)
    names = {0: "a", 1: "a", 3: "b", 4: "c", 5: "c", 6: "c", 7: "b"}
    texts = ["a0", "a one", "b3", "c4", "ç5", "c6", "b7"]
    folder = write_ragatouille(tmp_path / "x", made, names, texts, {"a": {"year": 1}, "c": {"year": 2}})
    source = open_vectors(folder)
    assert (source.kind, source.documents, source.places, source.lost) == ("RAGatouille", 3, None, ())
    found = read(source)
    rows = made.decoded(unit=True)
    expected = {"a": rows[0:2], "b": [rows[3], rows[7]], "c": rows[4:7]}
    assert_vectors(found, {doc_id: np.concatenate(own) for doc_id, own in expected.items()})
    assert {doc_id: own[:2] for doc_id, own in found.items()} == {
        "a": ("a0\na one", {"year": 1}),
        "b": ("b3\nb7", None),
        "c": ("c4\nç5\nc6", {"year": 2}),
    }
    assert [found["c"][0][start:end] for start, end in found["c"][3]] == ["c4", "ç5", "c6"]
    (folder / "collection.json").write_text("[]")
    with pytest.raises(CorpusError, match=r"collection.json has 0 passages, .*pid_docid_map.json has 7"):
        open_vectors(folder)
    (folder / "collection.json").unlink()
    assert read(open_vectors(folder))["a"][0] is None


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", ["plaid", "stanford", "warp"])
def test_pylate_names_documents(tmp_path: Path, kind: str, protocol: int) -> None:
    made = coded(300, n_chunks=2)
    names = {i: f"doc é {i}" for i in range(300) if i != 260}
    if protocol == 0:
        with pytest.raises(
            CorpusError, match=r"documents_ids.pkl has (INT|PUT|DICT), which a dictionary of ids has not"
        ):
            open_vectors(write_pylate(tmp_path / "x", made, names, kind, protocol))
        return
    source = open_vectors(write_pylate(tmp_path / "x", made, names, kind, protocol))
    assert source.kind.startswith("PyLate")
    assert source.lost == (
        "the vectors of 1 passages that belong to no document of the source: it has deleted them",
    )
    rows = made.decoded(unit=kind != "warp")
    assert_vectors(read(source), {names[i]: own for i, own in enumerate(rows) if i in names})


class Malicious:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["centroids.pt", "buckets.pt", "1.codes.pt", "0.residuals.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_that_is_pickled_in_tensors_is_refused_and_not_run(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    folder = write_stanford(tmp_path / "x", coded())
    tensor = torch.load(folder / name, weights_only=True)
    torch.save([tensor, Malicious(tmp_path / "ran")], folder / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CorpusError, match=rf"{name} cannot be read .*; it must hold tensors alone"):
        open_vectors(folder)
    assert not (tmp_path / "ran").exists()
    torch.load(folder / name, weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_that_is_pickled_in_ids_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    folder = write_pylate(tmp_path / "x", coded(), {0: "a"}, "plaid")
    path = folder / "plaid_ids_to_documents_ids.pkl"
    path.write_bytes(pickle.dumps({0: Malicious(tmp_path / "ran")}, protocol))
    with pytest.raises(CorpusError, match=r"documents_ids.pkl has (STACK_)?GLOBAL, .* none of it was run"):
        open_vectors(folder)
    assert not (tmp_path / "ran").exists()
    for content in (b"", b"\x80", pickle.dumps({0: "a"})[:-3], pickle.dumps([1]), pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=r"documents_ids.pkl (cannot be read|has |is no dictionary)"):
            open_vectors(folder)


@pytest.mark.parametrize("kind", WRITERS)
def test_files_that_are_cut_short_or_gone_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    folder = WRITERS[kind](tmp_path / "x", coded())
    needed = [
        path
        for path in sorted(folder.iterdir())
        if path.name.split(".")[0] not in ("avg_residual", "bucket_cutoffs")
    ]
    refused = 0
    for path in needed:
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], None):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            if path.name.endswith((".metadata.json", "manifest.json", "passage_ids.npy")) and content is None:
                assert len(read(open_vectors(folder))) == 12  # what is said twice
            elif not path.name.endswith(".metadata.json"):
                with pytest.raises(CorpusError, match=re.escape(str(tmp_path))):
                    open_vectors(folder)
                refused += 1
        path.write_bytes(whole)
    assert refused >= 12
    assert len(read(open_vectors(folder))) == 12


@pytest.mark.parametrize("kind", WRITERS)
def test_codes_that_do_not_fit_are_refused(tmp_path: Path, kind: str) -> None:
    made = coded()
    made.codes[40] = len(made.centroids)
    with pytest.raises(CorpusError, match=r"has a code beyond the \d+ centroids; copy the index again"):
        read(open_vectors(WRITERS[kind](tmp_path / "a", made)))
    made = coded()
    made.weights = made.weights[:5]
    with pytest.raises(CorpusError, match=r"\(5,\) weights of buckets; give \(n, dim\) and 2, 4, 16 or 256"):
        open_vectors(WRITERS[kind](tmp_path / "b", made))
    made = coded()
    made.residuals = made.residuals[:, :5]
    with pytest.raises(CorpusError, match=r"residuals of \(\d+, 5\) for \d+ tokens of 8 bytes"):
        open_vectors(WRITERS[kind](tmp_path / "c", made))
    folder = WRITERS[kind](tmp_path / "d", coded())
    for n in (0, True, "2", None, 3):
        (folder / "metadata.json").write_text(json.dumps({"num_chunks": n}))
        with pytest.raises(
            CorpusError, match=r"metadata.json has num_chunks = |doclens.2\.(json|npy) cannot be read"
        ):
            open_vectors(folder)


JUNK = [
    "null",
    "[]",
    "{}",
    "3",
    '"x"',
    "[[1]]",
    '["a"]',
    "[-1]",
    "[1e400]",
    '{"a": 1}',
    '{"0": {"rows": "x"}}',
    "[" * 5000,
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*WRITERS, "RAGatouille"])
def test_json_of_another_shape_is_refused_and_no_traceback(tmp_path: Path, kind: str) -> None:
    if kind == "RAGatouille":
        texts = {i: f"p{i}" for i in range(12)}
        folder = write_ragatouille(tmp_path / "x", coded(), texts, list(texts.values()), {"p1": {"a": 1}})
    elif kind == "fast-plaid":
        folder = write_fast_plaid(tmp_path / "x", coded(), metadata=[{"a": i} for i in range(12)])
        (folder / "metadata.db").write_bytes(b"no database")
        with pytest.raises(CorpusError, match=r"metadata.db cannot be read"):
            open_vectors(folder)
        (folder / "metadata.db").unlink()
    else:
        folder = WRITERS[kind](tmp_path / "x", coded())
    refused = 0
    for path in sorted(folder.glob("*.json")):
        whole = path.read_bytes()
        for junk in JUNK:
            path.write_text(junk)
            try:
                read(open_vectors(folder))
            except CorpusError:
                refused += 1
        path.write_bytes(whole)
    assert refused >= 11
    assert len(read(open_vectors(folder))) == 12


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_no_more_than_some_of_it_is_decoded_at_a_time(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    made = Coded(
        [random.standard_normal((400, 16)).astype(np.float32) for _ in range(1000)]
    )  # 26 MB in float32
    source = open_vectors(WRITERS[kind](tmp_path / "x", made))
    del made
    tracemalloc.start()
    tokens = 0
    for batch in source.batches():
        tokens += len(batch.embeddings.vectors)
        assert len(batch.embeddings.vectors) <= BATCH_TOKENS
    assert tokens == 400_000
    assert tracemalloc.get_traced_memory()[1] < 14e6
    tracemalloc.stop()
