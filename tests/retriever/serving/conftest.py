"""A small index, and applications that serve it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from encoder.light import LightEncoder
from indexing import Index
from indexing.writing.sources import update_folder
from retriever import Searcher
from retriever.serving import ServeSettings, create_app
from tests.helpers.page_corpus import CODE, ODD, documents

ROOT = Path(__file__).parent.parent.parent.parent
TEXTS = {
    "heart": "The heart pumps blood through the body.",
    "bank": "The central bank raised interest rates.",
    "shop/cart.py#1": "def add_to_cart(item, cart):\n    cart.append(item)\n",
    "<b>": "A <script>alert('x')</script> & \"quotes\" of a stranger.",
}


@pytest.fixture(scope="session")
def encoder() -> LightEncoder:
    return LightEncoder.load()


def metadata_of(text: str) -> dict[str, Any]:
    return {"length": len(text), "about": "<i>", "short": len(text) < 45}


def make(
    folder: Path,
    encoder: Any,
    texts: dict[str, str] = TEXTS,
    metadata_of: Callable[[str], dict[str, Any]] = metadata_of,
) -> Path:
    with Index.create(folder, encoder) as index:
        index.add({"doc_id": i, "text": t, "metadata": metadata_of(t)} for i, t in texts.items())
    return folder


@pytest.fixture(scope="session")
def docs(tmp_path_factory: pytest.TempPathFactory, encoder: LightEncoder) -> Path:
    """Read by many tests, written by none."""
    return make(tmp_path_factory.mktemp("serving") / "docs.index", encoder)


@pytest.fixture
def own(tmp_path: Path, encoder: LightEncoder) -> Path:
    return make(tmp_path / "own.index", encoder)


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Any]]:
    """serve(name=folder, ..., settings...) → a client of an application that runs."""
    from starlette.testclient import TestClient

    with ExitStack() as stack:

        def serve(indexes: dict[str, Path], **settings: Any) -> TestClient:
            app = create_app(ServeSettings(indexes, **settings))
            return stack.enter_context(TestClient(app, "http://localhost", raise_server_exceptions=False))

        yield serve


def detail(answer: Any, status: int) -> str:
    """The one line of a refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert "\n" not in problem["detail"]
    return str(problem["detail"])


def _wait_until_ready(url: str) -> None:
    for _ in range(600):
        try:
            with urlopen(f"{url}/readyz"):
                return
        except HTTPError:  # 503 until the models are loaded
            time.sleep(0.05)
    raise AssertionError("never ready")


@contextmanager
def running(*arguments: object, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`latewood serve` as a process of its own: its address and the process, which is killed at the end."""
    command = [sys.executable, "-m", "retriever.cli", "serve", *map(str, arguments), "--port", "0"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("serving on "):
                    url = line.removeprefix("serving on ").partition(";")[0]
                    _wait_until_ready(url)
                    yield url, process
                    return
            raise AssertionError("the server ended")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def served_docs(docs: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with running(docs) as found:
        yield found


@pytest.fixture(scope="module")
def client(serve: Callable[..., Any], docs: Path) -> Any:
    return serve({"docs": docs})


# The page ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, encoder: LightEncoder) -> dict[str, Path]:
    """{name: index}: texts; code; one of which a part is encoded; one with nothing encoded; an empty one."""
    place = tmp_path_factory.mktemp("page")
    (place / "source").mkdir()
    (place / "source" / "sessions.py").write_text(CODE, encoding="utf-8")
    (place / "source" / "notes.md").write_text("# Notes\n\nWhat a basket is.\n", encoding="utf-8")
    made = {name: place / f"{name}.index" for name in ("texts", "code", "half", "waiting", "empty")}
    for name, folder in made.items():
        with Index.create(folder, encoder, window=256) as index:
            if name == "code":
                update_folder(index, place / "source")
                index.add([ODD])
            if name in ("texts", "half"):
                index.add(documents())
            if name in ("half", "waiting"):
                more = [("cod", "Cod is a fish of cold seas."), ("hake", "Hake is a fish, too.")]
                index.add(({"doc_id": i, "text": t} for i, t in more), encode=False)
    return made


@pytest.fixture(scope="session")
def searcher(folders: dict[str, Path], encoder: LightEncoder) -> Iterator[Searcher]:
    """What Python finds in the index `texts`."""
    with Searcher.open(folders["texts"], encoder) as searcher:
        yield searcher


@pytest.fixture(scope="session")
def server(folders: dict[str, Path]) -> Iterator[Any]:
    from tests.helpers.browser import serving  # imports selenium

    with serving(folders) as server:
        yield server


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tests.helpers.browser import open_browser

    with open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def page(browser: Any, server: Any) -> Iterator[Any]:
    """A page that nobody has used. In the end nothing went elsewhere, and the console is silent."""
    from tests.helpers.browser import Page

    page = Page(browser, server.url)
    server.faults.clear()
    page.fresh()
    yield page
    page.online()
    page.check_requests()
    assert [entry for entry in page.console() if not server.faults.explain(entry)] == []


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    from tests.helpers.browser import axe_script

    return axe_script(request.config.cache)
