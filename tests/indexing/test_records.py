"""What an index takes in: odd characters and numbers come back as given or are refused."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError, LatewoodError, StorageError
from indexing import AddReport, Index
from indexing.writing.records import metadata_json
from tests.helpers.fakes import DIM, FakeEncoder, contents, corpus, record


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "docs.index", FakeEncoder(DIM)) as opened:
        opened.add(corpus(3))
        yield opened


@pytest.fixture
def vectors(tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "vectors.index", dim=DIM) as opened:
        yield opened


def kind_of(value: Any) -> str:
    """A parameter's name: pytest cannot write an integer of 5,000 digits."""
    return type(value).__name__


def nested(levels: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


# Ids, texts and metadata ------------------------------------------------------------------------------------

ODD = ["\u2028\u2029", "\ufeff", "'\"%_\\", "\x011", "😀e\u0301", "#1", " a ", "null"]


def test_a_nul_character_is_text_and_no_name(index: Index) -> None:
    text = "a\0b w1"
    index.add([{"doc_id": "a", "text": text}])
    index.compact()
    assert contents(index)["a"][0] == text
    assert index.delete(["a"]) == 1
    for call in (
        lambda: index.add([{"doc_id": "a\0b", "text": "w1"}]),
        lambda: index.rename({"d0": "a\0b"}),
        lambda: index.delete(["a\0b"]),
    ):
        with pytest.raises(ArgumentError, match=r"doc_id 'a\\x00b', which has a NUL character; take it out"):
            call()


@pytest.mark.parametrize("shards", [None, 3])
def test_values_of_a_key_are_of_any_kind(tmp_path: Path, shards: int | None) -> None:
    """In one order: none, then numbers, then texts, an empty one and a falsy number among them."""
    known = ["b", 0, None, "", -1, False, 2.5, "a", ["x"], True, 0, {"y": 0}, ""]
    with Index.create(tmp_path / "x", FakeEncoder(DIM), shards=shards) as index:
        index.add(record(n, "w1", k=value) for n, value in enumerate(known))
        found = index.values("k")
    assert found == [None, -1, 0, False, True, 2.5, "", ["x"], "a", "b", {"y": 0}]
    assert [type(value) for value in found[2:5]] == [int, bool, bool]


@pytest.mark.parametrize("odd", ODD)
def test_odd_characters_come_back(index: Index, odd: str) -> None:
    metadata = {odd: odd, "list": [odd, {odd: None}]}
    index.add([{"doc_id": odd, "text": odd, "metadata": metadata}])
    assert contents(index)[odd][:2] == (odd, metadata)
    assert index.update_metadata({odd: {"k": odd}}) == 1
    assert index.values("k") == [None, odd]
    index.create_metadata_index("k")
    assert index.rename({odd: f"{odd}2", "d0": odd}) == 2
    index.compact()
    assert contents(index)[f"{odd}2"][:2] == (odd, {"k": odd})
    assert index.delete([f"{odd}2", odd]) == 2
    assert contents(index).keys() == {"d1", "d2"}


def test_renaming_meets_no_name_of_its_own_making(index: Index) -> None:
    # Names are set aside before they are given anew; whatever stands for them then is no user's name.
    for aside in ("\x010", "0", "\x011", "1"):
        index.add([{"doc_id": aside, "text": aside}])
    assert index.rename({"d0": "d1", "d1": "d0"}) == 2
    assert len(contents(index)) == 7


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("\ud800", r"metadata\['k'\] = '\\ud800', which has a lone surrogate; pass valid Unicode"),
        ("a\0b", r"metadata\['k'\] = 'a\\x00b', which has a NUL character; take it out"),
        ({"\0": 1}, r"metadata\['k'\] with the key '\\x00', which has a NUL character"),
        ({"\udfff": 1}, r"metadata\['k'\] with the key '\\udfff', which has a lone surrogate"),
        (nested(900, list), "nested deeper than 100 levels; pass it flatter"),
        (nested(900, dict), "nested deeper than 100 levels; pass it flatter"),
        (nested(100_000, list), "nested deeper than 100 levels; pass it flatter"),
        (10**5000, r"metadata\['k'\], an integer beyond float64; pass it as a string"),
        (-(10**400), r"metadata\['k'\], an integer beyond float64"),
        (float("nan"), r"metadata\['k'\] = nan, which JSON cannot hold; pass None, or leave the key out"),
        (np.float32("nan"), r"metadata\['k'\] = nan, which JSON cannot hold; pass None"),
        ([1, np.inf], r"metadata\['k'\]\[1\] = inf, which JSON cannot hold"),
        (np.arange(3), r"metadata\['k'\] of type ndarray; pass JSON values"),
        ({10**5000: 1}, r"metadata\['k'\] with the key a value of type int; pass keys that are strings"),
        (b"x", r"metadata\['k'\] of type bytes"),
    ],
    ids=kind_of,
)
def test_metadata_that_would_not_come_back_is_refused(index: Index, value: Any, message: str) -> None:
    for call in (
        lambda: index.add([{"doc_id": "a", "text": "w1", "metadata": {"k": value}}]),
        lambda: index.update_metadata({"d0": {"k": value}}),
    ):
        with pytest.raises(ArgumentError, match=message) as refused:
            call()
        assert len(str(refused.value)) < 300
        assert "\n" not in str(refused.value)
    assert contents(index).keys() == {"d0", "d1", "d2"}
    assert contents(index)["d0"][1] == {"n": 0}


def test_what_is_large_and_still_fits_comes_back(index: Index) -> None:
    metadata = {"deep": nested(99, list), "deeper": nested(99, dict), "i": 2**1023, "f": 1.7e308, "-": -0.0}
    index.add([{"doc_id": "a", "text": "w1", "metadata": metadata}])
    assert contents(index)["a"][1] == metadata
    assert [list(live) for live in index.snapshot().select("i > 1e300").lives] == [[False] * 3, [True]]


def test_numbers_of_numpy_are_numbers(index: Index) -> None:
    given_ = {
        "i": np.int64(5),
        "u": np.uint8(200),
        "f": np.float32(0.5),
        "h": np.float16(2),
        "b": np.bool_(True),
    }
    index.add([{"doc_id": "a", "text": "w1", "metadata": {**given_, "l": [np.float64(0.1)]}}])
    stored = contents(index)["a"][1]
    assert stored == {"i": 5, "u": 200, "f": 0.5, "h": 2.0, "b": True, "l": [0.1]}
    assert stored["b"] is True
    selection = index.snapshot().select("i = 5 and b = true and f < 1")
    assert sum(int(live.sum()) for live in selection.lives) == 1
    assert index.update_metadata({"d0": {"n": np.int32(0)}}) == 0  # the same number


def test_texts_too_long_for_sqlite_are_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexing.writing.records.TEXT_BYTES", 10)
    for bad in (
        {"doc_id": "a", "text": "é" * 6},
        {"doc_id": "a" * 11, "text": "w1"},
        {"doc_id": "a", "text": "w1", "metadata": {"k": [1, 2, 3]}},
    ):
        with pytest.raises(ArgumentError, match=r"of 1\d bytes.*; pass at most 10"):
            index.add([bad])
    index.add([{"doc_id": "a", "text": "é" * 5}])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters()), json_values, max_size=3))
def test_any_metadata_comes_back_or_is_refused_in_a_line(metadata: dict[str, Any]) -> None:
    try:
        stored = metadata_json(metadata, "")
    except ArgumentError as error:
        told = str(error)
    else:
        assert json.loads(stored) == metadata
        return
    assert "\n" not in told
    assert "surrogate" in told or "NUL" in told or "JSON cannot hold" in told or "beyond float64" in told


# Ids are strings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [1, 1.0, None, b"d1", True, np.int64(1), ["d1"], 10**5000, "", "\ud800"], ids=kind_of
)
def test_an_id_is_a_string_and_nothing_else(index: Index, vectors: Index, bad: Any) -> None:
    one = [np.ones((1, DIM))]
    calls: list[Callable[[], Any]] = [
        lambda: index.delete(["d0", bad]),
        lambda: index.rename({"d0": bad}),
        lambda: index.add([{"doc_id": bad, "text": "w1"}]),
        lambda: vectors.add_embeddings([bad], one),
    ]
    if not isinstance(bad, list):  # no key of a dict
        calls += [lambda: index.rename({bad: "x"}), lambda: index.update_metadata({bad: {}})]
    for call in calls:
        with pytest.raises(ArgumentError, match=r"doc_id .*; pass (a string|valid Unicode)"):
            call()
    assert contents(index).keys() == {"d0", "d1", "d2"}
    assert len(vectors) == 0


@pytest.mark.parametrize("one", ["abc", b"abc", 5, None, {"d0": 1}])
def test_one_value_is_no_list(index: Index, vectors: Index, one: Any) -> None:
    array = [np.ones((1, DIM))]
    for call in (
        lambda: index.delete(one),
        lambda: index.add(one),
        lambda: index.get(one),
        lambda: vectors.add_embeddings(one, array),
        lambda: vectors.add_embeddings(["a"], one),
    ):
        with pytest.raises(ArgumentError, match="pass "):
            call()
    for name in ("texts", "metadata"):
        if one is not None:
            with pytest.raises(ArgumentError, match=f"{name} is .*; pass a list"):
                vectors.add_embeddings(["a"], array, **{name: one})
    for method in (index.rename, index.update_metadata):
        if not isinstance(one, dict):
            with pytest.raises(ArgumentError, match=r"; pass \{"):
                method(one)
    assert len(index) == 3


# Vectors of one's own ---------------------------------------------------------------------------------------


def test_generators_are_walked_once(index: Index, vectors: Index) -> None:
    ids = ["a", "b", "c"]
    arrays = [np.full((n, DIM), n, np.float32) for n in (1, 2, 3)]
    report = vectors.add_embeddings(
        (i for i in ids), (a for a in arrays), (i * 2 for i in ids), ({"n": i} for i in ids)
    )
    assert report == AddReport(added=3, passages=3, tokens=6)
    assert {k: v[:2] for k, v in contents(vectors).items()} == {i: (i * 2, {"n": i}) for i in ids}
    with pytest.raises(ArgumentError, match="3 embeddings for 2 doc_ids; pass one each"):
        vectors.add_embeddings((i for i in ids[:2]), (a for a in arrays))
    with pytest.raises(ArgumentError, match="2 texts for 3 doc_ids; pass one each"):
        vectors.add_embeddings((i for i in ids), arrays, (i for i in ids[:2]))
    assert vectors.delete(i for i in ids[:2]) == 2
    assert index.delete(iter(["d0"])) == 1
    now = index.snapshot()
    assert now.document_frequencies(w for w in ["w1", "w2"]) == now.document_frequencies(["w1", "w2"])


@pytest.mark.parametrize("kind", ["list", "float64", "nested lists", "one array", "tuple", "TokenEmbeddings"])
def test_vectors_are_taken_as_everyone_has_them(vectors: Index, kind: str) -> None:
    array = np.random.default_rng(0).standard_normal((2, 3, DIM)).astype(np.float32)
    given_: Any = {
        "list": list(array),
        "float64": list(array.astype(np.float64)),
        "nested lists": array.tolist(),
        "one array": array,
        "tuple": tuple(array),
        "TokenEmbeddings": TokenEmbeddings.from_list(array, DIM),
    }[kind]
    assert vectors.add_embeddings(["a", "b"], given_).tokens == 6
    found = contents(vectors)
    for i, doc_id in enumerate("ab"):
        np.testing.assert_array_equal(found[doc_id][2], array[i].astype(np.float16).astype(np.float32))
    assert vectors.add_embeddings(["c", "d"], [np.zeros((0, DIM)), []]).added == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones(DIM), r"embeddings\[1\] has shape \(8,\); pass \(n_tokens, 8\)"),
        (np.ones((2, 2 * DIM)), r"embeddings\[1\] has shape \(2, 16\); pass \(n_tokens, 8\)"),
        (np.ones((1, 2, DIM)), r"embeddings\[1\] has shape \(1, 2, 8\)"),
        ([[1.0] * DIM, [1.0]], r"embeddings\[1\] is no array"),
        ([["x"] * DIM], r"embeddings\[1\] is no array"),
        ("text", r"embeddings\[1\] is no array"),
        (np.full((1, DIM), np.nan), "doc_id 'b' has a vector with a number that is not finite"),
        (np.full((1, DIM), 1e300), "doc_id 'b' has a vector with a number that is not finite"),
    ],
)
def test_vectors_of_another_shape_are_refused(vectors: Index, wrong: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        vectors.add_embeddings(["a", "b"], [np.ones((1, DIM)), wrong])
    assert len(vectors) == 0


# Numbers and paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"dim": 8.5}, {"dim": "8"}, {"dim": 0}, {"flat_tokens": 1.5}, {"commit_tokens": "9"}, {"seed": -1}],
)
def test_settings_are_integers(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"pass (an integer|\w+ >= )"):
        Index.create(tmp_path / "docs.index", **{"dim": DIM, **options})
    assert not (tmp_path / "docs.index").exists()
    Index.create(tmp_path / "docs.index", dim=np.int64(DIM), flat_tokens=np.int64(300)).close()  # type: ignore[arg-type]
    assert Index.open(tmp_path / "docs.index").settings.flat_tokens == 300


@pytest.mark.slow
def test_an_index_stays_where_it_is_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with Index.create("rel.index", FakeEncoder(DIM), flat_tokens=100) as index:
        reader = Index.open("rel.index")
        assert index.folder == reader.folder == tmp_path / "rel.index"
        os.chdir("elsewhere")
        index.add(corpus(40))
        index.delete(["d0"])
        index.update_metadata({"d1": {"n": "new"}})
        index.compact()
        index.verify()
        assert reader.reload()
        assert contents(reader).keys() == {f"d{i}" for i in range(1, 40)}
        reader.close()
    assert not list((tmp_path / "elsewhere").iterdir())
    os.chdir(tmp_path)
    with Index.open("rel.index") as index:
        index.verify()
        assert len(index) == 39


def test_a_folder_that_cannot_be_made_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LatewoodError, match=r"cannot be used \(Not a directory\)") as refused:
        Index.create(tmp_path / "file" / "docs.index", dim=DIM)
    assert isinstance(refused.value, StorageError)
