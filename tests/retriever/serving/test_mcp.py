"""`latewood mcp`: the SDK's own client in memory, over standard input and output, and over HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client, StdioServerParameters
from typer.testing import CliRunner

from encoder.errors import ArgumentError
from indexing import Index
from indexing.reading.files import TextFile
from retriever.cli import app
from retriever.folders import cache_of, forget
from retriever.serving.kept import KeptFolders
from retriever.serving.mcp import create_server
from retriever.serving.tools import CHARS
from tests.retriever.test_folders import of_another_model

ROOT = Path(__file__).parent.parent.parent.parent
CODE = {
    "shop/cart.py": (
        'def add_to_cart(item, cart):\n    """Put an item into the basket."""\n    cart.append(item)\n\n\n'
        'def empty_cart(cart):\n    """Take all items out of the basket."""\n    cart.clear()\n'
    ),
    "shop/prices.py": "TAX = 0.2\n\n\ndef with_tax(price):\n    return price * (1 + TAX)\n",
    "shop/login.py": "def check_password(user, password):\n    return user.hash == digest(password)\n",
    "shop/page.js": "function putIntoBasket(item, basket) {\n  basket.push(item)\n}\n",
    "tests/test_cart.py": "def test_add_to_cart():\n    assert add_to_cart('pear', []) is None\n",
}
BASKET = {"query": "put an item into the basket"}
ABOUT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATEWOOD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path, files: dict[str, str], at: float | None = 1e9) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if at is not None:
            os.utime(path, (at, at))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "src", CODE)


class Asking:
    """One client. Calls give what a tool's structured content has; what an agent reads is in `text`."""

    def __init__(self, client: Client) -> None:
        self.client, self.text = client, ""

    async def __call__(self, tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await self.client.call_tool(tool, arguments)
        self.text = answer.content[0].text
        assert not answer.is_error, self.text
        return answer.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        answer = await self.client.call_tool(tool, arguments)
        assert answer.is_error, answer.content[0].text
        return answer.content[0].text


def served(*folders: Path) -> Client:
    return Client(create_server(KeptFolders(folders)))


def paths(answer: dict[str, Any]) -> list[str]:
    return [one["path"] for one in answer["results"]]


async def test_tools_are_listed_with_their_schemas(source: Path) -> None:
    async with served(source) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert client.instructions is not None
        assert str(source) in client.instructions
    assert set(tools) == {"search", "find_related", "read", "status"}
    for tool in tools.values():
        assert tool.annotations.read_only_hint
        assert tool.annotations.idempotent_hint
        assert not tool.annotations.open_world_hint
        assert tool.output_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert all(argument.get("description") for argument in tool.input_schema["properties"].values())
    asked = tools["search"].input_schema
    assert set(asked["properties"]) == {"query", "path", "k", "language", "paths", "mode", "max_tokens"}
    assert asked["required"] == ["query"]
    found = tools["search"].output_schema["$defs"]["Found"]
    assert {"path", "start_line", "end_line", "score", "text"} <= set(found["required"])


@pytest.mark.slow
async def test_an_answer_has_places_and_source_best_first_and_a_file_once(source: Path) -> None:
    async with served(source) as client:
        ask = Asking(client)
        answer = await ask("search", **BASKET)
        best = answer["results"][0]
        assert (best["path"], best["start_line"], best["end_line"]) == ("shop/cart.py", 1, 3)
        assert (best["symbol"], best["language"]) == ("add_to_cart", "python")
        assert best["text"] == "\n".join(CODE["shop/cart.py"].splitlines()[:3])
        assert len(set(paths(answer))) == len(paths(answer))
        scores = [one["score"] for one in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        assert ask.text.startswith("shop/cart.py:1-3  add_to_cart  (")
        assert best["text"] in ask.text
        both = (await ask("search", query="items in a basket, out of a basket", k=1))["results"][0]
        places = [both, *both["also"]]
        assert {(one["start_line"], one["end_line"], one["symbol"]) for one in places} == {
            (1, 3, "add_to_cart"),
            (6, 8, "empty_cart"),
        }
        assert "also in this file: " in ask.text
        # The same as the command's.
        shown = CliRunner().invoke(app, ["search", str(source), BASKET["query"], "--json"])
        assert paths(answer) == list(dict.fromkeys(hit["path"] for hit in json.loads(shown.stdout)))[:5]


@pytest.mark.slow
async def test_a_search_is_narrowed_by_path_language_and_patterns(source: Path) -> None:
    async with served(source) as client:
        ask = Asking(client)
        assert paths(await ask("search", **BASKET, k=1)) == ["shop/cart.py"]
        assert paths(await ask("search", **BASKET, path="tests")) == ["tests/test_cart.py"]
        assert paths(await ask("search", **BASKET, path="shop/page.js")) == ["shop/page.js"]
        assert paths(await ask("search", **BASKET, language="js")) == ["shop/page.js"]
        assert set(paths(await ask("search", **BASKET, paths=["*.py", "!tests/"]))) == {
            "shop/cart.py", "shop/login.py", "shop/prices.py"
        }  # fmt: skip
        assert paths(await ask("search", query="password", mode="lexical")) == ["shop/login.py"]
        none = await ask("search", **BASKET, paths=["nowhere/"])
        assert none == {"results": [], "note": ask.text}
        assert "`paths`" in ask.text
        assert "other words" in (await ask("search", query="zeppelin", mode="lexical"))["note"]


@pytest.mark.slow
async def test_an_answer_stays_within_its_tokens(tmp_path: Path) -> None:
    body = "".join(f"    step_{i} = advance(basket, {i})\n" for i in range(36))
    long = {f"m{i}.py": f"def fill_{i}(basket):\n{body}" for i in range(8)}
    async with served(write(tmp_path / "long", long)) as client:
        ask = Asking(client)
        whole = await ask("search", query="advance the basket", k=3, max_tokens=20_000)
        assert all(one["text"] in long[one["path"]] for one in whole["results"])
        for max_tokens in (100, 400, 1000):
            answer = await ask("search", query="step_30 advance basket", k=8, max_tokens=max_tokens)
            assert answer["results"]
            assert len("".join(one["text"] for one in answer["results"])) <= max_tokens * CHARS
            assert len(ask.text) <= max_tokens * CHARS + 200  # notes
            for one in answer["results"]:
                lines = [line for line in one["text"].splitlines() if line != "…"]
                assert set(lines) <= set(long[one["path"]].splitlines())
        assert len(answer["results"]) == 8


@pytest.mark.slow
async def test_a_changed_a_new_and_a_gone_file_are_seen(source: Path) -> None:
    async with served(source) as client:
        ask = Asking(client)
        await ask("search", **BASKET)
        write(source, {"shop/prices.py": "def with_discount(price):\n    return price / 2\n"}, at=None)
        write(source, {"shop/stock.py": "def refill_warehouse():\n    pass\n"}, at=None)
        (source / "shop/login.py").unlink()
        answer = await ask("search", query="discount", mode="lexical")
        assert (paths(answer)[0], answer["results"][0]["symbol"]) == ("shop/prices.py", "with_discount")
        # Of the same size, at once: times may not tell.
        write(source, {"shop/prices.py": "def with_discount(price):\n    return price / 3\n"}, at=None)
        assert "price / 3" in (await ask("search", query="discount", mode="lexical"))["results"][0]["text"]
        assert paths(await ask("search", query="refill the warehouse"))[0] == "shop/stock.py"
        assert (await ask("search", query="password", mode="lexical"))["results"] == []
        assert "does not exist" in await ask.refused("read", path="shop/login.py")


@pytest.mark.slow
async def test_an_unchanged_folder_is_neither_read_nor_written_again(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(
        Index, "open", lambda *a, _open=Index.open, **named: opened.append(a) or _open(*a, **named)
    )
    monkeypatch.setattr("retriever.serving.kept.YOUNG_NS", 0)  # these were made just now
    async with served(source) as client:
        ask = Asking(client)
        first = await ask("search", **BASKET)
        opened.clear()
        monkeypatch.setattr(TextFile, "read", lambda file: pytest.fail(f"{file} is read again"))
        assert await ask("search", **BASKET) == first
        assert opened == []


@pytest.mark.slow
async def test_related_places_are_in_other_files(source: Path) -> None:
    async with served(source) as client:
        ask = Asking(client)
        related = await ask("find_related", path="shop/cart.py", line=2)
        assert set(paths(related)[:2]) == {"shop/page.js", "tests/test_cart.py"}
        assert "shop/cart.py" not in paths(related)
        assert len(paths(await ask("find_related", path="shop/cart.py", line=2, k=1))) == 1
        assert "line=99" in await ask.refused("find_related", path="shop/cart.py", line=99)


@pytest.mark.slow
async def test_lines_are_read_and_cut(source: Path) -> None:
    async with served(source) as client:
        ask = Asking(client)
        text = CODE["shop/cart.py"].splitlines()
        whole = await ask("read", path="shop/cart.py")
        assert (whole["text"], whole["n_lines"]) == ("\n".join(text), 8)
        part = await ask("read", path="shop/cart.py", start=6, end=100)
        assert (part["text"], part["start_line"], part["end_line"]) == ("\n".join(text[5:]), 6, 8)
        assert "8 lines" in await ask.refused("read", path="shop/cart.py", start=9)
        write(source, {"long.txt": "A line of text, and nothing more.\n" * 40 + "x" * 9000 + "\n"})
        cut = await ask("read", path="long.txt", max_tokens=100)
        assert cut["end_line"] == 8
        assert "start=9" in cut["note"]
        assert await ask("read", path="long.txt", start=9, end=9, max_tokens=100)
        assert len((await ask("read", path="long.txt", start=41, max_tokens=100))["text"]) == 300


@pytest.mark.slow
async def test_paths_outside_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key.py").write_text("PASSWORD_OF_THE_SAFE = 'open sesame'\n")
    (source / "shop/link.py").symlink_to(tmp_path / "secret/key.py")
    (source / "out").symlink_to(tmp_path / "secret", target_is_directory=True)
    (source / "in.py").symlink_to(source / "shop/cart.py")
    (source / ".env").write_text("TOKEN=1\n")
    (tmp_path / "src2").mkdir()
    (tmp_path / "src2/a.py").write_text("A = 1\n")  # a name that begins alike
    async with served(source) as client:
        ask = Asking(client)
        outside = (
            "../secret/key.py", "shop/../../secret/key.py", str(tmp_path / "secret/key.py"), "shop/link.py",
            "out/key.py", "out", "..", "/", str(tmp_path / "src2/a.py"), "../src2/a.py", "~", "shop/cart.py\0",
        )  # fmt: skip
        for path in outside:
            for tool, more in (("read", {}), ("find_related", {"line": 1}), ("search", {"query": "safe"})):
                refusal = await ask.refused(tool, path=path, **more)
                assert re.search(r"lies outside of|does not exist in", refusal), refusal
                assert "sesame" not in refusal
        for mode in ("late", "lexical", "hybrid"):
            answer = await ask("search", query="PASSWORD_OF_THE_SAFE", mode=mode)
            assert "sesame" not in ask.text
            assert "shop/link.py" not in paths(answer)
        for path in (".env", "shop", "in.py"):
            assert "no file that search looks at" in await ask.refused("read", path=path)
        # Where they lead to the folder itself, other ways of writing a path are fine.
        (tmp_path / "way").symlink_to(source, target_is_directory=True)
        for path in (
            "./shop/../shop/cart.py",
            str(source / "shop/cart.py"),
            str(tmp_path / "way/shop/cart.py"),
        ):
            assert (await ask("read", path=path, end=1))["path"] == "shop/cart.py"


@pytest.mark.slow
async def test_several_folders_take_turns_and_their_paths_say_which(source: Path, tmp_path: Path) -> None:
    other = write(
        tmp_path / "other/src", {"basket.py": "def basket():\n    'Put an item into the basket.'\n"}
    )
    notes = write(
        tmp_path / "notes", {"a.txt": "How an item gets into the basket: somebody puts it there.\n"}
    )
    async with served(source, other, notes) as client:
        ask = Asking(client)
        found = paths(await ask("search", **BASKET, k=4))
        firsts = {
            f"{tmp_path.name}/src/shop/cart.py",
            "other/src/basket.py",
            f"{notes.parent.name}/notes/a.txt",
        }
        assert {path.removeprefix(f"{tmp_path.name}/") for path in found[:3]} == {
            path.removeprefix(f"{tmp_path.name}/") for path in firsts
        }
        for path in found:
            assert (await ask("read", path=path))["path"] == path
        assert paths(await ask("search", **BASKET, path="other/src")) == ["other/src/basket.py"]
        assert len((await ask("status"))["folders"]) == 3


@pytest.mark.slow
async def test_prose_is_answered_by_its_passages(tmp_path: Path) -> None:
    place = write(
        tmp_path / "notes",
        {
            "heart.md": "# Blood\n\nThe heart pumps blood through the body.\n\n# Bones\n\nThey are hard.\n",
            "bank.txt": "The central bank raised interest rates.\n",
        },
    )
    async with served(place) as client:
        ask = Asking(client)
        answer = await ask("search", query="blood circulation")
        assert paths(answer) == ["heart.md", "bank.txt"]
        assert "pumps blood" in answer["results"][0]["text"]
        assert answer["results"][0]["start_line"] <= 3 <= answer["results"][0]["end_line"]


@pytest.mark.slow
async def test_what_an_agent_gets_wrong_is_said_with_the_remedy(source: Path, tmp_path: Path) -> None:
    async with served(source) as client:
        ask = Asking(client)
        for arguments, told in (
            ({}, "query"),
            ({"query": "x", "top_k": 3}, "top_k"),
            ({"query": "x", "k": 0}, "greater than or equal to 1"),
            ({"query": "x", "mode": "best"}, "'late', 'lexical' or 'hybrid'"),
            ({"query": "x", "language": "klingon"}, "pass a name or an extension"),
            ({"query": "x", "path": "nowhere.py"}, "pass a path as search gives it"),
        ):
            assert told in await ask.refused("search", **arguments)
    (tmp_path / "empty").mkdir()
    async with served(tmp_path / "empty") as client:
        assert "pass another folder" in await Asking(client).refused("search", query="x")


@pytest.mark.slow
async def test_the_status_says_how_far_it_is(source: Path) -> None:
    async with served(source) as client:
        ask = Asking(client)
        [before] = (await ask("status"))["folders"]
        assert "first search" in before["note"]
        await ask("search", **BASKET)
        [after] = (await ask("status"))["folders"]
        assert (after["files"], after["passages"], after["encoded"]) == (5, 7, 7)
        assert after["index"] == str(cache_of(source))


# Beside others ------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_two_servers_and_the_command_share_one_index(source: Path) -> None:
    async with served(source) as one, served(source) as two:
        first, second = Asking(one), Asking(two)
        for i, ask in enumerate((first, second, first, second)):
            write(source, {f"more{i}.py": f"def zeppelin_{i}():\n    pass\n"}, at=None)
            for asking in (ask, first, second):
                assert paths(await asking("search", query=f"zeppelin_{i}", k=1)) == [f"more{i}.py"]
            Index.open(cache_of(source), writable=True).close()  # nobody keeps the lock
        assert CliRunner().invoke(app, ["forget", str(source)]).exit_code == 0
        assert paths(await first("search", query="zeppelin_2", k=1)) == ["more2.py"]
        assert forget(source)
        write(source, {"more.py": "def airship():\n    pass\n"}, at=None)
        assert paths(await second("search", query="airship", k=1)) == ["more.py"]
        assert paths(await first("search", query="airship", k=1)) == ["more.py"]


@pytest.mark.slow
async def test_an_index_of_another_model_is_made_anew(source: Path) -> None:
    async with served(source) as client:
        before = await Asking(client)("search", **BASKET)
    of_another_model(cache_of(source))
    async with served(source) as client:
        ask = Asking(client)
        answer = await ask("search", **BASKET)
        assert answer["results"] == before["results"]
        assert "made anew" in answer["note"]
        assert "made anew" in (await ask("status"))["folders"][0]["note"]


@pytest.mark.slow
async def test_beside_a_writer_what_there_is_answers(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retriever.folders.PATIENCE", 0.1)
    monkeypatch.setattr("retriever.serving.kept.PATIENCE", 0.1)
    async with served(source) as client:
        ask = Asking(client)
        await ask("search", **BASKET)
        write(source, {"new.py": "def zeppelin():\n    pass\n"}, at=None)
        with Index.open(cache_of(source), writable=True):
            answer = await ask("search", **BASKET)
            assert paths(answer)[0] == "shop/cart.py"
            assert "Another process" in answer["note"]
        answer = await ask("search", query="zeppelin", k=1)
        assert paths(answer) == ["new.py"]
        assert "note" not in answer
    forget(source)
    cache_of(source).mkdir()
    with Index.create(cache_of(source), dim=96):
        async with served(source) as client:
            assert "is being written by" in await Asking(client).refused("search", query="x")


def slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """Each file takes so long to read; those that were."""
    done: list[str] = []
    read = TextFile.read

    def slow(file: TextFile) -> Any:
        time.sleep(seconds)
        done.append(file.relative)
        return read(file)

    monkeypatch.setattr(TextFile, "read", slow)
    return done


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_first_reading_is_told_and_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    source = write(tmp_path / "big", {f"m{i}.py": f"def zeppelin_{i}():\n    pass\n" for i in range(200)})
    told: list[tuple[float, str]] = []
    async with Client(create_server(KeptFolders([source])), mode=mode) as client:
        with pytest.MonkeyPatch.context() as patch:
            done = slowly(patch, 0.02)
            with anyio.CancelScope() as scope:

                async def progress(value: float, total: float | None, message: str | None) -> None:
                    told.append((value, message or ""))
                    if len(told) == 3:
                        scope.cancel()

                await client.call_tool("search", {"query": "zeppelin_7"}, progress_callback=progress)
            assert scope.cancelled_caught
            await anyio.sleep(0.3)
            n = len(done)
            assert 0 < n < 100
            await anyio.sleep(0.3)
            assert len(done) == n
        assert all(re.match(r"reading: \d+ of 200 ", message) for _, message in told)
        assert [value for value, _ in told] == sorted({value for value, _ in told})
        ask = Asking(client)
        assert paths(await ask("search", query="zeppelin_7", k=1)) == ["m7.py"]


@pytest.mark.slow
async def test_a_question_beside_the_first_reading_waits_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "big", {f"m{i}.py": f"def zeppelin_{i}():\n    pass\n" for i in range(100)})
    slowly(monkeypatch, 0.02)
    told: list[str] = []
    answers: list[list[str]] = []

    async def progress(value: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async with served(source) as client, anyio.create_task_group() as group:

        async def search(i: int) -> None:
            answer = await client.call_tool(
                "search", {"query": f"zeppelin_{i}", "k": 1}, progress_callback=progress
            )
            answers.append(paths(answer.structured_content))

        group.start_soon(search, 1)
        doing = ""
        with anyio.fail_after(20):
            while not doing.startswith("reading: "):
                await anyio.sleep(0.05)
                doing = (await Asking(client)("status"))["folders"][0].get("doing", "")  # does not wait
        group.start_soon(search, 2)
    assert sorted(answers) == [["m1.py"], ["m2.py"]]
    assert len(told) > 2


# As a process -------------------------------------------------------------------------------------------------


def parameters(cache: Path, *arguments: object) -> StdioServerParameters:
    environment = {**os.environ, "LATEWOOD_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = ["-m", "retriever.cli", "mcp", *map(str, arguments)]
    return StdioServerParameters(command=sys.executable, args=command, env=environment)


@pytest.mark.slow
async def test_over_standard_input_and_output(source: Path, cache: Path) -> None:
    async with Client(parameters(cache, source)) as client:
        ask = Asking(client)
        assert paths(await ask("search", **BASKET))[0] == "shop/cart.py"
        write(source, {"new.py": "def zeppelin():\n    pass\n"}, at=None)
        assert paths(await ask("search", query="zeppelin", k=1)) == ["new.py"]
        assert "lies outside" in await ask.refused("read", path="../cache")


@pytest.mark.slow
def test_nothing_but_the_protocol_is_on_standard_output(source: Path, cache: Path) -> None:
    """Not even what is not as usual: here, a cache that cannot be written. Closed input ends the process."""
    cache.write_text("a file where a folder should be")
    asked = parameters(cache, source)
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": ABOUT},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "search", "arguments": BASKET},
        },
        {
            "jsonrpc": "2.0",
            "id": 3,
            "method": "tools/call",
            "params": {"name": "read", "arguments": {"path": "/"}},
        },
    ]
    process = subprocess.Popen(
        [asked.command, *asked.args], env=asked.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for message in messages:
        process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
    answers: dict[int, Any] = {}
    while len(answers) < 3:
        answer = json.loads(process.stdout.readline())
        answers[answer["id"]] = answer["result"]
    process.stdin.close()
    with process.stdout:
        assert process.stdout.read() == ""
    assert process.wait(20) == 0
    assert answers[2]["structuredContent"]["results"][0]["path"] == "shop/cart.py"
    assert "cannot be kept" in answers[2]["structuredContent"]["note"]
    assert answers[3]["isError"]


@pytest.mark.slow
def test_who_starts_it_by_hand_is_told_what_it_waits_for(tmp_path: Path, cache: Path) -> None:
    asked = parameters(cache, write(tmp_path / "few", {"m.py": "pass\n"}))
    terminal, keyboard = os.openpty()
    process = subprocess.Popen(
        [asked.command, *asked.args], env=asked.env, stdin=keyboard, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "waits for an agent on standard input" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.communicate()[0] == ""
    os.close(terminal)
    os.close(keyboard)


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_ends_it_while_it_waits_for_a_line_and_while_it_reads(
    tmp_path: Path, cache: Path, busy: bool
) -> None:
    source = write(
        tmp_path / "big", {f"m{i}.py": f"def zeppelin_{i}():\n    pass\n" for i in range(3000 if busy else 1)}
    )
    asked = parameters(cache, source)
    process = subprocess.Popen(
        [asked.command, *asked.args],
        env=asked.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    for message in (
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": ABOUT},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "search", "arguments": BASKET},
        },
    )[: 3 if busy else 2]:
        process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 1
    deadline = time.monotonic() + 30
    while busy and not cache_of(source).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    _, told = process.communicate()
    assert told.splitlines()[-1] == "latewood: interrupted; what was read and encoded is kept"
    if busy:  # nothing is locked
        Index.open(cache_of(source), writable=True).close()


@pytest.fixture
def address(source: Path, cache: Path) -> Iterator[tuple[str, Callable[[], tuple[int, str]]]]:
    """Of a server over HTTP; and what interrupts it: its exit code, and its last words."""
    asked = parameters(cache, source, "--http", "--port", 0)
    process = subprocess.Popen([asked.command, *asked.args], env=asked.env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    watch = threading.Timer(60, process.kill)
    watch.start()

    def interrupt() -> tuple[int, str]:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        return process.returncode, told

    try:
        yield line.strip().removeprefix("listening on "), interrupt
    finally:
        watch.cancel()
        process.kill()
        process.communicate()


@pytest.mark.slow
async def test_over_http_on_loopback(
    address: tuple[str, Callable[[], tuple[int, str]]], source: Path
) -> None:
    url, interrupt = address
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/mcp", url)
    async with Client(url) as client:
        ask = Asking(client)
        assert paths(await ask("search", **BASKET))[0] == "shop/cart.py"
        write(source, {"new.py": "def zeppelin():\n    pass\n"}, at=None)
        assert paths(await ask("search", query="zeppelin", k=1)) == ["new.py"]
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accepted = {"accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient() as http:
        for foreign in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            answer = await http.post(url, json=asked, headers={**accepted, **foreign})
            assert answer.status_code in (403, 421)
    code, told = await anyio.to_thread.run_sync(interrupt)
    assert code == 130
    assert told.splitlines()[-1] == "latewood: interrupted; what was read and encoded is kept"


def run_cli(*arguments: object) -> None:
    CliRunner().invoke(app, ["mcp", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)


def test_what_cannot_be_served_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArgumentError, match="is no folder; pass one"):
        run_cli(tmp_path / "nowhere")
    with (
        Index.create(tmp_path / "x", dim=8),
        pytest.raises(ArgumentError, match="is an index; pass the folder"),
    ):
        run_cli(tmp_path / "x")
    monkeypatch.chdir(source)
    monkeypatch.setenv("HOME", str(source))
    monkeypatch.setenv("USERPROFILE", str(source))
    with pytest.raises(ArgumentError, match="pass the folders to search"):
        run_cli()
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ArgumentError, match="pass another"):
        run_cli(source, "--http", "--port", taken.getsockname()[1])


@pytest.mark.slow
async def test_answers_come_within_the_times_of_the_command(tmp_path: Path, cache: Path) -> None:
    """On the project's own few hundred files: the first no later than twice the command's, further ones far sooner."""
    import shutil

    for name in ("encoder", "indexing", "retriever", "tests"):
        shutil.copytree(
            ROOT / name, tmp_path / "src" / name, ignore=shutil.ignore_patterns("__pycache__", "models")
        )
    source, asked = tmp_path / "src", parameters(cache)
    questions = ("where is attention computed?", "how are filters parsed?", "which files are ignored?")

    def command(question: str) -> float:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "retriever.cli", "search", str(source), question],
            env=asked.env, check=True, capture_output=True,
        )  # fmt: skip
        return time.monotonic() - began

    first, *further = [command(question) for question in questions]
    forget(source)
    times = []
    async with Client(parameters(cache, source)) as client:
        ask = Asking(client)
        for question in (*questions, *questions):
            began = time.monotonic()
            assert len(paths(await ask("search", query=question))) == 5
            times.append(time.monotonic() - began)
    assert times[0] < 2 * first
    assert max(times[1:3]) < max(further)
    assert max(times[3:]) < min(further) / 2
