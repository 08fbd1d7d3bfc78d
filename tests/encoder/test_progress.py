"""Progress: a bar on a terminal, a line by the clock elsewhere, nothing unless asked for."""

import io
import re
import sys
import threading
import time
from pathlib import Path

import pytest

import encoder.progress
from encoder.progress import Progress

PACKAGES = ("encoder", "indexing", "retriever")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def no_terminal(monkeypatch):
    """Standard error that is no terminal, with a line every 20 ms. In the test itself: pytest puts its own there."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(encoder.progress, "EVERY", 0.02)
    return stream


def until(stream, text):
    for _ in range(500):
        if text in stream.getvalue():
            return
        time.sleep(0.01)
    raise AssertionError(f"{text!r} was not said: {stream.getvalue()!r}")


def test_elsewhere_than_on_a_terminal_lines_come_by_the_clock(monkeypatch):
    lines = no_terminal(monkeypatch)
    seen = []
    for item in Progress(["a", "b", "c", "d"], desc="index", unit="passage", show=True):
        seen.append(item)
        if item == "b":
            until(lines, "index: 1 of 4 (25 %), ")  # while one item takes long
    assert seen == ["a", "b", "c", "d"]
    said = lines.getvalue().splitlines()
    assert all(re.fullmatch(r"index: \d of 4 \(\d+ %\), [\d.,]+ passage/s, \d+ s", line) for line in said)
    assert said[-1].startswith("index: 4 of 4 (100 %)")
    assert "\r" not in lines.getvalue()


def test_lines_go_on_after_the_last_item_until_the_work_is_done(monkeypatch):
    lines = no_terminal(monkeypatch)
    with Progress((i for i in range(3)), desc="index", unit="passage", show=True) as bar:
        assert list(bar) == [0, 1, 2]
        until(lines, "index: 3, ")
    ended = lines.getvalue()
    time.sleep(0.1)
    assert lines.getvalue() == ended


def test_the_lines_stop_with_the_work_that_fails(monkeypatch):
    lines = no_terminal(monkeypatch)

    def fails():
        with Progress[int](desc="search", unit="query", show=True, total=9) as bar:
            bar.update(4)
            until(lines, "search: 4 of 9 (44 %)")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    time.sleep(0.1)
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_quick_work_and_work_that_nobody_asked_about_say_nothing(monkeypatch):
    lines = no_terminal(monkeypatch)
    assert list(Progress([1, 2], desc="index", unit="passage", show=False)) == [1, 2]
    with Progress([1], desc="index", unit="passage", show=False):
        time.sleep(0.1)
    monkeypatch.setattr(encoder.progress, "EVERY", 5.0)
    assert list(Progress([1, 2], desc="index", unit="passage", show=True)) == [1, 2]
    assert lines.getvalue() == ""


@pytest.mark.parametrize("gone", [None, "closed"])
def test_a_standard_error_that_is_closed_stops_nothing(monkeypatch, gone):
    stream = io.StringIO()
    monkeypatch.setattr(encoder.progress, "EVERY", 0.01)
    monkeypatch.setattr(sys, "stderr", None if gone is None else stream)
    with Progress([1, 2], desc="index", unit="passage", show=True) as bar:
        stream.close()
        time.sleep(0.1)
        assert list(bar) == [1, 2]


def test_a_terminal_gets_a_bar_and_a_dumb_one_lines(monkeypatch):
    monkeypatch.setattr(encoder.progress, "EVERY", 0.01)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with Progress([1, 2], desc="index", unit="passage", show=True) as bar:
        list(bar)
    assert "\r" in sys.stderr.getvalue()
    assert "100%" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    with Progress([1, 2], desc="index", unit="passage", show=True) as bar:
        list(bar)
        until(sys.stderr, "index: 2 of 2 (100 %)")
    assert not set("\r\x1b") & set(sys.stderr.getvalue())


def test_there_is_one_place_for_bars():
    root = Path(encoder.progress.__file__).parent.parent
    users = [p for name in PACKAGES for p in (root / name).rglob("*.py") if "tqdm" in p.read_text("utf-8")]
    assert users == [root / "encoder" / "progress.py"]
