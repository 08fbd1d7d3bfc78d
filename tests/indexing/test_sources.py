"""An index that follows a folder: after any edits it holds what a new one would, and encodes only what is new."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import retriever.cli.update
from encoder.errors import ArgumentError, MissingDependencyError
from indexing import Index
from indexing.reading.corpus import read_folder
from indexing.writing.sources import UpdateReport, update_folder
from retriever.cli import app
from retriever.cli.commands import PastTyperError
from tests.helpers.fakes import FakeEncoder

TWO = "def one():\n    return w1\n\n\ndef two():\n    return w2\n"
CLOCK = iter(range(10**9, 10**10))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(now := next(CLOCK) * 10**9, now))  # a coarse clock would hide a quick change


class Followed:
    """A folder, an index that follows it and its encoder."""

    def __init__(self, place: Path) -> None:
        self.folder, self.out = place / "code", place / "code.index"
        self.folder.mkdir()
        self.encoder = FakeEncoder()
        Index.create(self.out, self.encoder).close()

    def update(self, **options: Any) -> UpdateReport:
        self.encoder.encoded.clear()
        with Index.open(self.out, self.encoder, writable=True) as index:
            return update_folder(index, self.folder, **options)

    def holds(self) -> dict[str, tuple[str | None, dict[str, Any]]]:
        with Index.open(self.out) as index:
            pids = [s.pid_start + i for s in index.segments for i in range(s.n_passages) if index.live(s)[i]]
            return {d.doc_id: (d.text, d.metadata) for d in index.documents(pids)}

    def check(self) -> None:
        fresh = read_folder(self.folder) if any(self.folder.iterdir()) else iter(())
        assert self.holds() == {p["doc_id"]: (p["text"], p["metadata"]) for p in fresh}


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_an_unchanged_tree_is_not_read(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b" / "c.md", "# T\n\ntext\n")
    write(followed.folder / "empty.py", "")
    first = followed.update()
    assert (first.changed, first.unchanged, first.added.added) == (3, 0, 3)
    followed.check()

    def unread(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("indexing.reading.files.TextFile.read", unread)
    again = followed.update()
    assert (again.changed, again.unchanged, again.gone, again.added.tokens) == (0, 3, 0, 0)
    assert dict(again.folder.skipped) == {"empty": 1}


def test_only_what_changed_is_encoded(followed: Followed) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b.py", "x = 1\n")
    followed.update()
    write(followed.folder / "a.py", "import w3\n\n\n" + TWO.replace("w2", "w4"))
    report = followed.update()
    assert sorted(followed.encoder.encoded) == ["def two():\n    return w4", "import w3"]
    assert (report.changed, report.unchanged, report.added.added, report.added.replaced) == (1, 1, 1, 2)
    followed.check()  # line numbers of what stayed the same too


def test_what_is_gone_goes_and_what_moved_keeps_its_vectors(followed: Followed) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b.py", "def three():\n    return w3\n")
    followed.update()
    (followed.folder / "sub").mkdir()
    (followed.folder / "a.py").rename(followed.folder / "sub" / "new.py")
    (followed.folder / "b.py").unlink()
    report = followed.update()
    assert (report.gone, report.renamed, report.deleted) == (2, 2, 1)
    assert followed.encoder.encoded == []
    followed.check()


def test_passages_that_change_places_are_renamed(followed: Followed) -> None:
    write(followed.folder / "a.txt", "w1 w2\n")
    write(followed.folder / "b.txt", "w3 w4\n")
    followed.update()
    write(followed.folder / "a.txt", "w3 w4\n")
    write(followed.folder / "b.txt", "w1 w2\n")
    assert followed.update().renamed == 2
    assert followed.encoder.encoded == []
    followed.check()


def test_passages_of_other_origin_are_left_alone(followed: Followed) -> None:
    write(followed.folder / "a.py", TWO)
    with Index.open(followed.out, followed.encoder, writable=True) as index:
        index.add([{"doc_id": "mine", "text": "w5"}])
    followed.update()
    (followed.folder / "a.py").unlink()
    followed.update()
    assert followed.holds() == {"mine": ("w5", {})}


def test_an_interrupted_update_is_made_good(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b.py", "def three():\n    return w3\n")
    followed.update()
    write(followed.folder / "a.py", TWO.replace("two", "four"))
    (followed.folder / "b.py").rename(followed.folder / "c.py")
    for method in ("delete", "rename", "add"):
        with monkeypatch.context() as patch:

            def stop(*_: object, **__: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(Index, method, stop)
            with pytest.raises(KeyboardInterrupt):
                followed.update()
    (followed.folder / "a.py").unlink()  # and what it was about to store is gone by now
    followed.update()
    followed.check()
    assert followed.update().changed == 0


edits = st.lists(
    st.tuples(
        st.sampled_from(["write", "move", "delete"]),
        st.sampled_from(["a.py", "b.txt", "d/c.py", "d/e.md"]),
        st.sampled_from(["a.py", "b.txt", "d/c.py", "d/e.md", "f.py"]),
        st.lists(
            st.sampled_from(["def f():\n    return w1\n", "x = 1\n", "# w2\n\nw3 w4\n", "w5\n"]), max_size=4
        ),
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=15)
@given(rounds=st.lists(edits, min_size=1, max_size=4))
def test_after_any_edits_the_index_is_as_a_new_one(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, str, str, list[str]]]]
) -> None:
    place = tmp_path_factory.mktemp("edits")
    followed = Followed(place)
    write(followed.folder / "stays.txt", "w0\n")
    for some in rounds:
        for kind, name, other, parts in some:
            path = followed.folder / name
            if kind == "write":
                write(path, "\n".join(parts))
            elif path.exists():
                if kind == "delete":
                    path.unlink()
                else:
                    (followed.folder / other).parent.mkdir(exist_ok=True)
                    path.replace(followed.folder / other)
        followed.update()
        followed.check()
        assert followed.update().changed == 0
    shutil.rmtree(place)


def test_an_index_follows_one_folder(followed: Followed, tmp_path: Path) -> None:
    write(followed.folder / "a.py", TWO)
    followed.update()
    write(tmp_path / "other" / "b.py", TWO)
    with Index.open(followed.out, followed.encoder, writable=True) as index:
        with pytest.raises(ArgumentError, match=r"follows .*; use an index of its own"):
            update_folder(index, tmp_path / "other")
        with pytest.raises(ArgumentError, match="is no folder"):
            update_folder(index, tmp_path / "none")
        # A folder that was moved is still the same.
        followed.folder.rename(tmp_path / "moved")
        assert update_folder(index, tmp_path / "moved").unchanged == 1


def test_rename(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with Index.create(tmp_path / "x", encoder) as index:
        index.add([{"doc_id": d, "text": t} for d, t in {"a": "w1", "b": "w2", "c": "w3"}.items()])
        assert index.rename({"a": "b", "b": "a"}) == 2
        assert [d.text for d in index.documents([0, 1, 2])] == ["w1", "w2", "w3"]
        assert [d.doc_id for d in index.documents([0, 1, 2])] == ["b", "a", "c"]
        for wrong in ({"z": "y"}, {"a": "c"}, {"a": "y", "b": "y"}, {"a": ""}):
            with pytest.raises(ArgumentError):
                index.rename(wrong)
        assert len(encoder.encoded) == 3
        pids, _ = index.lexical("w1", 3, index.matching(None))
        assert pids.tolist() == [0]


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "code", tmp_path / "code" / "own.index"
    write(source / "a.py", TWO)
    text = run("index", source, "--out", out, "--update")
    assert "0 files unchanged, 1 read, 0 gone; passages: 2 added" in text
    # Nothing to do: not even the model is loaded.
    with monkeypatch.context() as patch:
        patch.setattr(retriever.cli.update.Encoder, "load", None)
        assert "1 files unchanged, 0 read, 0 gone" in run("index", source, "--out", out, "--update")

    def changes(*_: object, watch_filter: Any, **__: object) -> Any:
        assert not watch_filter(1, str(out / "index.db"))
        assert watch_filter(1, str(source / "a.py"))
        (source / "a.py").rename(source / "b.py")
        yield {(1, "b.py")}
        yield {(1, "nothing that counts")}
        raise KeyboardInterrupt

    monkeypatch.setattr("watchfiles.watch", changes)
    watched = CliRunner().invoke(app, ["watch", str(source), "--out", str(out)])
    lines = watched.output.splitlines()
    assert "1 read, 1 gone; passages: 0 added, 0 replaced, 2 renamed" in lines[-1].replace(
        "2 replaced", "0 replaced"
    )
    assert isinstance(watched.exception, PastTyperError)
    assert str(watched.exception.error).startswith(f"stopped watching; {out} is whole and holds ")
    assert run("search", "--code", out, "one", "-k", 1).startswith("b.py:")


def test_watch_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "watchfiles", None)
    result = CliRunner().invoke(app, ["watch", str(tmp_path), "--out", str(tmp_path / "x")])
    assert isinstance(result.exception, MissingDependencyError)
    assert "pip install 'latewood[watch]'" in str(result.exception)
