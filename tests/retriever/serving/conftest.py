"""A small index, and applications that serve it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from encoder.light import LightEncoder
from indexing import Index
from retriever.serving import ServeSettings, create_app

TEXTS = {
    "heart": "The heart pumps blood through the body.",
    "bank": "The central bank raised interest rates.",
    "shop/cart.py#1": "def add_to_cart(item, cart):\n    cart.append(item)\n",
    "<b>": "A <script>alert('x')</script> & \"quotes\" of a stranger.",
}


@pytest.fixture(scope="session")
def encoder() -> LightEncoder:
    return LightEncoder.load()


def make(folder: Path, encoder: Any, texts: dict[str, str] = TEXTS) -> Path:
    with Index.create(folder, encoder) as index:
        index.add(
            {"doc_id": i, "text": t, "metadata": {"length": len(t), "about": "<i>", "short": len(t) < 45}}
            for i, t in texts.items()
        )
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


@pytest.fixture(scope="module")
def client(serve: Callable[..., Any], docs: Path) -> Any:
    return serve({"docs": docs})
