"""The tools of `serving.tools` over the Model Context Protocol: on standard input and output, or HTTP on loopback."""

import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from typing import Annotated, Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel

from encoder.errors import LatewoodError
from encoder.progress import Step, Told
from retriever.serving.kept import KeptFolders
from retriever.serving.listening import listening
from retriever.serving.tools import About, Answer, Lines, Read, Related, Search, Status, Tools

__all__ = ["create_server", "serve_http"]

EVERY = 0.2  # seconds between two notifications of progress
INSTRUCTIONS = """Searches {folders} by meaning and by words. Use `search` first whenever you do not know the exact text
or the file: a question, a behaviour, a symbol. Use grep for every occurrence of an exact string. Answers are of the
files as they are when you ask; nothing has to be indexed before."""
DESCRIPTIONS = {
    "search": """Find code or text by what it does or says, best first: a question in plain words ("where are expired
sessions removed?"), a behaviour, or a symbol whose file you do not know. Prefer it to grep and to reading file after
file; use grep for all occurrences of an exact string. One result a file: its best definition, source and lines.""",
    "find_related": """Find what resembles or belongs to the code at a line, in other files: a second implementation,
helpers, callers, tests. Use it before a change, to see what must change with it.""",
    "read": """Read lines of a file that search found, as it is when you ask. Use your own tools for files that search
passes over: hidden, ignored by git, binary.""",
    "status": """Say which folders are searched, how much of them is encoded, and what is being done. No search needs it
before.""",
}
READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

T = TypeVar("T")
Work = Callable[[Any, Told], BaseModel]


class _Left(BaseException):  # no Exception, which work may handle by itself
    """Nobody waits for the answer any more."""


def create_server(folders: KeptFolders) -> MCPServer[Any]:
    """An MCP server of folders. They are closed when it ends."""
    tools = Tools(folders)

    @asynccontextmanager
    async def life(server: MCPServer[Any]) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(_warmed, tools)
            try:
                yield
            finally:
                group.cancel_scope.cancel()
                folders.close()

    names = " and ".join(str(kept.source) for kept in folders)
    return MCPServer(
        "latewood",
        title="Latewood",
        instructions=INSTRUCTIONS.format(folders=names),
        version=metadata.version("latewood"),
        log_level="WARNING",
        lifespan=life,
        tools=[
            _tool("search", Search, Answer, tools.search),
            _tool("find_related", Related, Answer, tools.find_related),
            _tool("read", Read, Lines, tools.read),
            _tool("status", About, Status, tools.status),
        ],
    )


def serve_http(server: MCPServer[Any], port: int, tell: Callable[[str], None]) -> None:
    """Serve HTTP on loopback until SIGINT or SIGTERM. tell: is called with the address.

    Names other than loopback's in Host, and foreign ones in Origin, are refused: a page in a browser reaches nothing.
    Raises ArgumentError for a port that is taken.
    """
    host = "127.0.0.1"
    with listening(host, port, "pass another --port, or 0 for any") as bound:
        tell(f"http://{host}:{bound.getsockname()[1]}/mcp")
        config = uvicorn.Config(
            server.streamable_http_app(host=host), log_level="warning", timeout_graceful_shutdown=3
        )
        uvicorn.Server(config).run(sockets=[bound])


def _tool(name: str, asked: type[BaseModel], answered: type[BaseModel], work: Work) -> Tool:
    """A tool that takes a model's fields as its arguments, and no others."""

    async def call(ctx: Context[Any, Any], **arguments: Any) -> CallToolResult:
        answer = await _in_thread(ctx, lambda progress: work(asked(**arguments), progress))
        return CallToolResult(
            content=[TextContent(type="text", text=str(answer))],
            structured_content=answer.model_dump(mode="json", exclude_defaults=True),
        )

    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=Context[Any, Any])]
    for field_name, field in asked.model_fields.items():
        default = inspect.Parameter.empty if field.is_required() else field.default
        parameters.append(
            inspect.Parameter(
                field_name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=asked.__annotations__[field_name],
            )
        )
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        parameters, return_annotation=Annotated[CallToolResult, answered]
    )
    call.__name__ = name  # what an error names
    tool = Tool.from_function(call, name, description=DESCRIPTIONS[name], annotations=READS)
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"  # else a misspelt one is passed over
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema(by_alias=True)
    return tool


async def _in_thread(ctx: Context[Any, Any] | None, work: Callable[[Told], T]) -> T:
    """Do work in a thread, and tell the client how far it is. Cancelled, it ends at the next step of its progress."""
    left = threading.Event()
    said, last, phases = 0.0, 0.0, dict[str, int]()

    def told(step: Step) -> None:
        nonlocal said, last
        if left.is_set():
            raise _Left
        if ctx is None or time.monotonic() < last + EVERY:
            return
        last = time.monotonic()
        # Of all phases together, for it may only grow.
        done = phases.setdefault(step.phase, len(phases)) + (step.done / step.total if step.total else 0.0)
        if done > said:
            said = done
            anyio.from_thread.run(ctx.report_progress, done, None, str(step))

    try:
        return await anyio.to_thread.run_sync(work, told, abandon_on_cancel=True)
    except LatewoodError as error:
        raise ToolError(str(error)) from error
    except OSError as error:
        raise ToolError(f"{error.filename or 'the folder'}: {error.strerror or error}") from error
    finally:
        left.set()


async def _warmed(tools: Tools) -> None:
    with suppress(ToolError):  # whoever asks is told
        await _in_thread(None, tools.warm)
