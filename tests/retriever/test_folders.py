"""`latewood search FOLDER`: an index in the cache, words at once, the best of them encoded on the spot, and kept."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import indexing.index
import retriever.folders as folders
from encoder import Encoder
from encoder.errors import ArgumentError, CorpusError, IndexFormatError, IndexLockedError
from encoder.light import LightEncoder
from indexing import Index
from indexing.reading import files
from indexing.storage import fulltext
from indexing.storage.tables import is_index
from retriever import SearchOptions
from retriever.cli import app
from retriever.code.ranking import RULES
from retriever.folders import Folder, cache_of, forget

ROOT = Path(__file__).parent.parent.parent
CODE = {
    "shop/cart.py": 'def add_to_cart(item, cart):\n    """Put an item into the basket."""\n    cart.append(item)\n',
    "shop/prices.py": "TAX = 0.2\n\n\ndef with_tax(price):\n    return price * (1 + TAX)\n",
    "shop/login.py": "def check_password(user, password):\n    return user.hash == digest(password)\n",
    "tests/test_cart.py": "def test_add_to_cart():\n    assert add_to_cart('pear', []) is None\n",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATEWOOD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, text in CODE.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1e9, 1e9))
    return tmp_path / "src"


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_a_folder_is_answered_and_what_was_encoded_is_kept(source: Path) -> None:
    code, out, told = run("search", source, "put a thing into the basket", "-k", 2)
    assert code == 0, told
    assert out.splitlines()[0].startswith("shop/cart.py:1  add_to_cart")
    with Folder.open(source) as found:
        assert found.report is not None
        assert found.report.changed == 0
        assert len(found.searcher.snapshot) == 5
        encoded = len(found.searcher.snapshot) - found.searcher.snapshot.n_unencoded
        assert 1 <= encoded <= 5
        assert is_index(cache_of(source))
    code, out, told = run("search", source, "put a thing into the basket", "-k", 2, "--wait")
    assert code == 0
    assert "encoded" not in told
    with Folder.open(source) as found:
        assert found.searcher.snapshot.n_unencoded == 0


@pytest.mark.slow
def test_what_is_encoded_is_of_the_files_asked_for(source: Path) -> None:
    for i in range(40):
        (source / f"{i}.md").write_text(
            f"Put a thing into the basket, put a thing into the basket. Page {i}.\n"
        )
    code, out, told = run("search", source, "put a thing into the basket", "--lang", "py", "--json")
    assert code == 0, told
    hits = json.loads(out)
    assert {hit["path"] for hit in hits} <= {name for name in CODE if name.endswith(".py")}
    with Folder.open(source) as found:
        waiting = {doc_id for _, doc_id, _ in found.searcher.snapshot.reader.unencoded()}
        assert not {hit["doc_id"] for hit in hits} & waiting
        assert sum(".md" in doc_id for doc_id in waiting) == 40


@pytest.mark.slow
def test_an_answer_loads_the_model_once_and_the_same_again_writes_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "more.md").write_text("\n\n".join(f"# Part {i}\n\nNothing of the kind." for i in range(60)))
    loaded = []
    load = LightEncoder.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        LightEncoder,
        "load",
        classmethod(lambda cls, *args, **named: loaded.append(1) or load(cls, *args, **named)),
    )
    generations = []
    for turn in range(2):
        code, _, told = run("search", source, "put a thing into the basket")
        assert (code, len(loaded)) == (0, turn + 1), told
        with Folder.open(source) as found:
            generations.append(found.searcher.snapshot.state.generation)
    assert generations[0] == generations[1]


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_said_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not also by the thread that loads it ahead, whose traceback pytest would take for an error."""

    def broken(*_: object) -> None:
        raise ArgumentError("the model is damaged")

    with Folder.open(source, print) as found:
        monkeypatch.setattr(type(found.searcher), "encoder", property(broken))
        with pytest.raises(ArgumentError, match="the model is damaged"):
            found.prepare("basket", SearchOptions())


def test_what_cannot_be_read_is_said(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = files.open_regular

    def refused(path: Path) -> Any:
        if path.name == "prices.py":
            raise PermissionError(13, "Permission denied")
        return opened(path)

    monkeypatch.setattr(files, "open_regular", refused)
    remedy = "change their permissions to have them searched too"
    for _ in range(2):
        code, out, told = run("search", source, "add_to_cart", "-k", 1)
        assert (code, bool(out)) == (0, True)
        assert f"note: 1 of its files and folders cannot be read (shop/prices.py); {remedy}\n" in told
    monkeypatch.undo()


def test_a_folder_at_rest_whose_index_is_forgotten_makes_another(source: Path) -> None:
    with Folder.kept(source, print) as found:
        for name in ("one.py", "two.py"):
            assert forget(source)
            (source / name).write_text("def giraffe():\n    return 1\n")
            assert found.refresh()
            assert {hit.doc_id for hit in found.searcher.search("giraffe", mode="lexical")} >= {
                f"{name}::giraffe"
            }
            assert is_index(cache_of(source))


def test_while_the_index_of_a_folder_is_made_others_answer_without_it(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each moment of the making: before its lock, with tables that are being made, and when it is done and free."""
    create, found = fulltext.create_table, []

    def asked_meanwhile(connection: sqlite3.Connection) -> None:
        monkeypatch.setattr(fulltext, "create_table", create)
        assert not is_index(cache_of(source))
        with Folder.open(source, found.append) as other:
            assert len(other.searcher.snapshot) == 5
        create(connection)

    def made_meanwhile(place: Path) -> Index:
        monkeypatch.setattr(folders, "_created", created)
        monkeypatch.setattr(fulltext, "create_table", asked_meanwhile)
        Folder.open(source, found.append).close()
        return created(place)

    created = folders._created
    monkeypatch.setattr(folders, "_created", made_meanwhile)
    with Folder.open(source, found.append) as late:
        assert len(late.searcher.snapshot) == 5
    again = "another process is making this folder's index; it is made in a temporary folder, for this answer alone"
    assert found == [again]


def test_explain_shows_what_the_score_of_code_adds_up_from(source: Path) -> None:
    code, out, told = run("search", source, "add_to_cart", "-k", 1, "--explain")
    assert code == 0, told
    why = next(line for line in out.splitlines() if line.startswith("   why  "))
    parts = dict(part.rsplit(" ", 1) for part in why.removeprefix("   why  ").split(", "))
    assert float(parts["defines the name"]) == RULES["defines the name"][1]
    assert {"meaning", "words"} <= parts.keys()
    score = float(re.search(r"\(([\d.]+)\)", out.splitlines()[0])[1])  # type: ignore[index]
    assert sum(map(float, parts.values())) == pytest.approx(score, abs=0.03)
    (hit, *_) = json.loads(run("search", source, "add_to_cart", "-k", 1, "--json")[1])
    assert hit["reasons"]["defines the name"] == RULES["defines the name"][1]
    assert sum(hit["reasons"].values()) == pytest.approx(hit["score"])
    assert "why" not in run("search", source, "add_to_cart")[1]
    code, out, _ = run("search", source, "add_to_cart", "--mode", "lexical", "--explain")
    assert "meaning +0.00, words +1.00" in out  # words alone have rules too
    (prose := source.parent / "prose").mkdir()
    (prose / "a.txt").write_text("A basket of pears.\n")
    for wrong in ([source, "--plain"], [prose, "--mode", "lexical"]):
        arguments = ["search", str(wrong[0]), "basket", "--explain", *map(str, wrong[1:])]
        with pytest.raises(ArgumentError, match="leave"):
            CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)


@pytest.mark.slow
def test_a_few_texts_are_encoded_without_torch_and_many_by_it(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Folder.open(source) as found:
        assert found.index is not None
        found.prepare("basket", SearchOptions())
        assert isinstance(found.index._light, LightEncoder)
        assert found.index._encoder is None
        (source / "more.py").write_text("TAX = 1\n")
    for few, kind in ((64, type(None)), (0, Encoder)):
        monkeypatch.setattr(indexing.index, "FEW", few)
        (source / f"more{few}.py").write_text(f"def tax{few}():\n    return {few}\n")
        with Folder.open(source) as found:
            assert found.index is not None
            found.encode()
            assert found.index.n_unencoded == 0
            assert isinstance(found.index._encoder, kind)


@pytest.mark.slow
def test_a_changed_a_new_and_a_gone_file_are_seen(source: Path) -> None:
    run("search", source, "tax", "--mode", "lexical")
    (source / "shop/prices.py").write_text("def with_discount(price):\n    return price / 2\n")
    (source / "shop/stock.py").write_text("def refill_warehouse():\n    pass\n")
    (source / "shop/login.py").unlink()
    for question, path in (("discount", "shop/prices.py"), ("warehouse", "shop/stock.py")):
        code, out, _ = run("search", source, question, "--mode", "lexical", "--json")
        assert code == 0
        assert json.loads(out)[0]["path"] == path
    assert json.loads(run("search", source, "password", "--mode", "lexical", "--json")[1]) == []


@pytest.mark.slow
def test_prose_is_shown_as_passages(tmp_path: Path) -> None:
    place = tmp_path / "notes"
    place.mkdir()
    (place / "heart.txt").write_text("The heart pumps blood through the body.\n")
    (place / "bank.txt").write_text("The central bank raised interest rates.\n")
    code, out, _ = run("search", place, "blood circulation", "-k", 1)
    assert code == 0
    assert "heart.txt" in out
    assert "pumps blood" in out


@pytest.mark.slow
def test_words_alone_answer_where_words_found_nothing_to_encode(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run("search", source, "remuneration")
    assert code == 0
    assert "shop/" in out  # so few that all are encoded
    forget(source)
    monkeypatch.setattr(folders, "CANDIDATES", 2)
    code, out, _ = run("search", source, "zzzz")
    assert code == 0
    assert out.startswith("no hits")


@pytest.mark.slow
@pytest.mark.parametrize("content", [{}, {"a.bin": b"\0\1\2"}])
def test_a_folder_without_text_is_one_line(tmp_path: Path, content: dict[str, bytes]) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    for name, data in content.items():
        (place / name).write_bytes(data)
    passed_over = "; skipped 1: binary 1" if content else ""
    with pytest.raises(CorpusError) as refused:
        Folder.open(place)
    assert str(refused.value) == (
        f"{place} holds no text or code to search: 0 files, 0 passages{passed_over}; pass another folder"
    )
    with pytest.raises(ArgumentError, match="is no folder"):
        Folder.open(tmp_path / "nothing")


def test_an_index_without_its_database_is_no_folder_of_text(tmp_path: Path) -> None:
    with Index.create(tmp_path / "x", dim=4) as index:
        place = index.folder
    (place / "index.db").unlink()
    with pytest.raises(
        IndexFormatError, match=r"x was an index, and its index\.db is missing; restore it or index again"
    ):
        Folder.open(place)


@pytest.mark.slow
def test_without_a_cache_the_answer_is_given_all_the_same(
    source: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_text("a file where the cache should be")
    told: list[str] = []
    with Folder.open(source, told.append) as found:
        found.prepare("basket", SearchOptions())
        hits = found.searcher.search("basket")
        assert hits[0].metadata["path"] == "shop/cart.py"
        place = found.index.folder if found.index else None
    assert place is not None
    assert not place.exists()
    assert len(told) == 1
    assert "cannot be kept" in told[0]


@pytest.mark.slow
def test_beside_a_writer_both_answer(source: Path) -> None:
    with Folder.open(source), pytest.MonkeyPatch.context() as patch:
        told: list[str] = []
        (source / "new.py").write_text("TAX = 1\n")
        with Folder.open(source, told.append) as second:
            assert second.index is None
            assert second.searcher.search("basket", mode="lexical")[0].metadata["path"] == "shop/cart.py"
        assert "another process" in told[0]
        patch.setattr(folders, "is_index", lambda place: False)  # as while it is made
        with Folder.open(source, told.append) as third:
            assert third.searcher.search("basket", mode="lexical")
        patch.undo()
        with pytest.raises(IndexLockedError):
            forget(source)


@pytest.mark.slow
def test_an_unchanged_folder_locks_nobody_out_and_what_is_encoded_is_kept(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Folder.open(source):
        pass
    opened: list[bool] = []
    index_open = Index.open

    def counted(*arguments: object, **named: object) -> Index:
        opened.append(bool(named.get("writable")))
        return index_open(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "open", counted)
    with Folder.open(source) as one, Folder.open(source) as two:
        assert opened == []
        assert one.report == two.report
        assert one.report is not None
        assert (one.report.unchanged, one.report.changed, one.report.gone) == (4, 0, 0)
        for found in (one, two):
            found.prepare("basket", SearchOptions())
            assert found.searcher.snapshot.n_unencoded == 0
    for change in (
        lambda: (source / "new.py").write_text("TAX = 1\n"),
        lambda: (source / "new.py").unlink(),
        lambda: (source / "shop/login.py").write_text("def check():\n    return True\n"),
        lambda: os.utime(source / "shop/prices.py", (2e9, 2e9)),
    ):
        change()
        opened.clear()
        with Folder.open(source):
            assert opened == [True]


@pytest.mark.slow
def test_an_index_of_another_version_is_made_anew(source: Path) -> None:
    place = cache_of(source)
    with Folder.open(source):
        pass
    (place / "index.db").write_bytes(b"no database")
    told: list[str] = []
    with Folder.open(source, told.append) as found:
        assert len(found.searcher.snapshot) == 5
    assert "made anew" in told[0]


def of_another_model(place: Path) -> None:
    with closing(sqlite3.connect(place / "index.db")) as db, db:
        db.execute(
            "UPDATE settings SET value = json_set(value, '$.encoder_fingerprint', 'x') WHERE key = 'index'"
        )


@pytest.mark.slow
def test_an_index_of_another_model_is_made_anew(source: Path) -> None:
    """As after an update of Latewood that brings a better one."""
    code, before, told = run("search", source, "put a thing into the basket")
    assert code == 0, told
    of_another_model(cache_of(source))
    code, after, told = run("search", source, "put a thing into the basket")
    assert (code, after) == (0, before)
    assert "is made anew" in told
    assert "made anew" not in run("search", source, "put a thing into the basket")[2]


@pytest.mark.slow
def test_info_and_forget(source: Path) -> None:
    assert run("info", source)[0] != 0
    with Folder.open(source):
        pass
    code, out, _ = run("info", source)
    assert code == 0
    assert str(cache_of(source)) in out
    code, out, _ = run("forget", source)
    assert code == 0
    assert not cache_of(source).exists()
    with pytest.raises(ArgumentError, match="has no index of"):
        CliRunner().invoke(app, ["forget", str(source)], catch_exceptions=False, standalone_mode=False)


def test_an_index_is_searched_as_an_index(tmp_path: Path, source: Path) -> None:
    with Index.create(tmp_path / "x", dim=8) as index:
        index.add([{"doc_id": "a", "text": "a basket"}], encode=False)
    code, out, told = run("search", tmp_path / "x", "basket", "--mode", "lexical")
    assert code == 0
    assert "a basket" in out
    assert "0 of 1 documents are encoded" in told


@pytest.mark.slow
def test_a_first_search_that_is_killed_goes_on(source: Path, cache: Path) -> None:
    for i in range(300):
        (source / f"m{i}.py").write_text(f"def f{i}():\n    return 'basket {i}'\n" * 20)
    environment = {**os.environ, "LATEWOOD_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "retriever.cli", "search", str(source), "basket 7", "-k", "1"]
    for seconds in (1.0, 2.0, 3.0, 4.5):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    with Folder.open(source) as found:
        assert len({document.metadata["path"] for document in found.searcher.snapshot}) == 304
