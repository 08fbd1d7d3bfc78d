"""Progress: told to a callable; a bar on a terminal, a line by the clock elsewhere, JSON, nothing unless asked for."""

import io
import json
import re
import sys
import threading
import time
from pathlib import Path

import pytest

import encoder.progress
from encoder.progress import Progress, Step, progress_as_json, progress_shown

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
    for item in Progress(["a", "b", "c", "d"], phase="index", unit="passage", told=progress_shown()):
        seen.append(item)
        if item == "b":
            until(lines, "index: 1 of 4 (25 %), ")  # while one item takes long
    assert seen == ["a", "b", "c", "d"]
    said = lines.getvalue().splitlines()
    assert all(
        re.fullmatch(r"index: \d of 4 \(\d+ %\), [\d.,]+ passage/s, \d+ s(, \d+ s left)?", line)
        for line in said
    )
    assert re.fullmatch(r"index: 1 of 4 .+, \d+ s, \d+ s left", said[0])
    assert re.fullmatch(r"index: 4 of 4 \(100 %\), .+, \d+ s", said[-1])
    assert "\r" not in lines.getvalue()


def test_lines_go_on_after_the_last_item_until_the_work_is_done(monkeypatch):
    lines = no_terminal(monkeypatch)
    with Progress((i for i in range(3)), phase="index", unit="passage", told=progress_shown()) as bar:
        assert list(bar) == [0, 1, 2]
        until(lines, "index: 3, ")
    ended = lines.getvalue()
    time.sleep(0.1)
    assert lines.getvalue() == ended


def test_the_lines_stop_with_the_work_that_fails(monkeypatch):
    lines = no_terminal(monkeypatch)

    def fails():
        with Progress[int](phase="search", unit="query", told=progress_shown(), total=9) as bar:
            bar.update(4)
            until(lines, "search: 4 of 9 (44 %)")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    time.sleep(0.1)
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_quick_work_and_work_that_nobody_asked_about_say_nothing(monkeypatch):
    lines = no_terminal(monkeypatch)
    assert list(Progress([1, 2], phase="index", unit="passage", told=None)) == [1, 2]
    with Progress([1], phase="index", unit="passage", told=None):
        time.sleep(0.1)
    monkeypatch.setattr(encoder.progress, "EVERY", 5.0)
    assert list(Progress([1, 2], phase="index", unit="passage", told=progress_shown())) == [1, 2]
    assert lines.getvalue() == ""


@pytest.mark.parametrize("gone", [None, "closed"])
def test_a_standard_error_that_is_closed_stops_nothing(monkeypatch, gone):
    stream = io.StringIO()
    monkeypatch.setattr(encoder.progress, "EVERY", 0.01)
    monkeypatch.setattr(sys, "stderr", None if gone is None else stream)
    with Progress([1, 2], phase="index", unit="passage", told=progress_shown()) as bar:
        stream.close()
        time.sleep(0.1)
        assert list(bar) == [1, 2]


def test_a_terminal_gets_a_bar_and_a_dumb_one_lines(monkeypatch):
    monkeypatch.setattr(encoder.progress, "EVERY", 0.01)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with Progress([1, 2], phase="index", unit="passage", told=progress_shown()) as bar:
        list(bar)
    assert "\r" in sys.stderr.getvalue()
    assert "100%" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    with Progress([1, 2], phase="index", unit="passage", told=progress_shown()) as bar:
        list(bar)
        until(sys.stderr, "index: 2 of 2 (100 %)")
    assert not set("\r\x1b") & set(sys.stderr.getvalue())


def test_a_callable_is_told_each_step_in_the_thread_that_works():
    steps, threads = [], set()

    def told(step):
        steps.append((step.phase, step.unit, step.done, step.total, step.ended))
        threads.add(threading.current_thread())
        assert step.left is None or step.left >= 0

    assert list(Progress("ab", phase="reading", unit="file", told=told)) == ["a", "b"]
    assert steps == [
        ("reading", "file", n, 2, ended) for n, ended in ((0, False), (1, False), (2, False), (2, True))
    ]
    assert threads == {threading.current_thread()}


def test_time_left_follows_the_rate_so_far(monkeypatch):
    now = time.monotonic()
    step = encoder.progress.Step("encoding", "document", 50, 200, now, now + 10)
    for later, left in ((10, 30), (15, 25), (100, 0)):  # the last slower than those before
        monkeypatch.setattr(encoder.progress.time, "monotonic", lambda later=later: now + later)
        assert step.rate == 5.0
        assert step.left == pytest.approx(left)
        shown = f"encoding: 50 of 200 (25 %), 5.0 document/s, {later} s, {left} s left"
        assert str(step) == shown


@pytest.mark.slow
def test_short_phases_do_not_put_off_the_next_line(monkeypatch):
    """Else nothing would be said while each takes less than the time between lines."""
    lines = no_terminal(monkeypatch)
    monkeypatch.setattr(encoder.progress, "EVERY", 0.5)
    told, started = progress_shown(), time.monotonic()
    for number in range(100):
        with Progress(phase=f"phase {number}", unit="file", told=told):
            time.sleep(0.1)
        if lines.getvalue():
            break
    assert time.monotonic() - started < 2


def test_a_phase_within_another_is_what_is_said(monkeypatch):
    lines = no_terminal(monkeypatch)
    told = progress_shown()
    with Progress(phase="encoding", unit="document", told=told, total=3) as outer:
        outer.update(2)
        with Progress(phase="compressing", unit="token", told=told, total=9):
            until(lines, "compressing: 0 of 9")
        before = len(lines.getvalue())
        for _ in range(500):
            if "encoding: 2 of 3" in lines.getvalue()[before:]:
                break
            time.sleep(0.01)
    assert "encoding: 2 of 3" in lines.getvalue()[before:]


def test_json_has_a_line_where_a_phase_begins_and_ends_and_by_the_clock(monkeypatch):
    lines = no_terminal(monkeypatch)
    with Progress(phase="words", unit="document", told=progress_as_json(), total=4) as bar:
        bar.update(3)
        until(lines, '"done": 3')
    steps = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [steps[0]["done"], steps[-1]["done"]] == [0, 3]
    assert [step["ended"] for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[1].keys() == {"phase", "done", "total", "unit", "seconds", "rate", "left", "ended"}


def test_there_is_one_place_for_bars():
    root = Path(encoder.progress.__file__).parent.parent
    users = [p for name in PACKAGES for p in (root / name).rglob("*.py") if "tqdm" in p.read_text("utf-8")]
    assert users == [root / "encoder" / "progress.py"]


def test_one_thing_has_no_rate() -> None:
    step = Step("loading the model", "model", 0, 1, time.monotonic() - 3, time.monotonic())
    assert str(step) == "loading the model, 3 s"
