"""The HTTP server: `create_app(ServeSettings)` is an ASGI application that any server runs, extra `serve`. In `mcp` is
the tool for coding agents, extra `mcp`."""

from typing import TYPE_CHECKING, Any

from retriever.serving.settings import Limits, ServeSettings

if TYPE_CHECKING:
    from retriever.serving.app import create_app

__all__ = ["Limits", "ServeSettings", "create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from retriever.serving.app import create_app  # imports FastAPI

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
