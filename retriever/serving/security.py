"""Who may ask: the Host and the Origin of a request, its token, and how long and how large it may be.

A browser lets any page send requests to this machine, and a name that a stranger owns may point to it (DNS rebinding).
"""

import hmac
import time

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retriever.serving.errors import ProblemError, problem
from retriever.serving.settings import ServeSettings, is_loopback

__all__ = ["Guard"]

# Without a token: whether it lives, and the page, which holds nothing until it is given one.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
OPEN_FOLDER = "/page/"

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = {
    "Cache-Control": "no-cache",  # else a browser runs the page of the last version after an update
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """An ASGI middleware: what it refuses reaches no route."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._loopback = settings.loopback
        self._hosts = {name.lower() for name in settings.allowed_hosts}
        self._origins = set(settings.cors)
        token = settings.token
        self._token = None if token is None else token.encode()
        self._limits, self._writable = settings.limits, settings.writable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_caller(headers)
            self._check_token(scope, headers)
            streamed = self._is_upload(scope, headers)
            limit = self._limits.max_upload if streamed else self._limits.max_body
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length[:20]) > limit:
                raise _too_large(limit)
        except ProblemError as error:
            answer = problem(error.status_code, str(error.detail), error.headers)
            await answer(scope, receive, send_with_headers)
            return
        bounded = _Bounded(receive, limit, self._limits.timeout, anew=streamed)
        await self._app(scope, bounded, send_with_headers)

    def _check_caller(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._loopback and not self._is_own(host):
            raise ProblemError(
                403, f"the Host is {host!r:.80}; call this server as localhost, or start it with --allow-host"
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and not _same(origin, host):
            raise ProblemError(
                403,
                f"the Origin is {origin!r:.80}; start the server with --cors ORIGIN for pages of that site",
            )

    def _is_own(self, host: str) -> bool:
        name = _name_of(host)
        return is_loopback(name) or name in self._hosts

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        path = scope["path"]
        if self._token is None or path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            told = "this token is not it" if given else "a token is needed"
            raise ProblemError(
                401, f"{told}; send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )

    def _is_upload(self, scope: Scope, headers: Headers) -> bool:
        """Whether it is documents as NDJSON, which go to the disk as they come."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        there = self._writable and scope["method"] == "POST" and scope["path"].endswith("/documents")
        return there and kind == "application/x-ndjson"


class _Bounded:
    """`receive` of at most so many bytes, in at most so many seconds; anew: for each part of the body."""

    def __init__(self, receive: Receive, limit: int, seconds: float, *, anew: bool) -> None:
        self._receive, self._limit, self._seconds, self._anew = receive, limit, seconds, anew
        self._until = time.monotonic() + seconds
        self._bytes = 0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:  # what comes now is that the client leaves
            return await self._receive()
        with anyio.move_on_after(self._until - time.monotonic()):
            message = await self._receive()
            if self._anew:
                self._until = time.monotonic() + self._seconds
            self._bytes += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._bytes > self._limit:
                raise _too_large(self._limit)
            return message
        raise ProblemError(408, f"the body did not come within {self._seconds:g} s; send it faster")


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, f"the body has more than {limit:,} bytes; send less at a time")


def _name_of(host: str) -> str:
    """Of `name:port`, `[address]:port`."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def _same(origin: str, host: str) -> bool:
    """Whether a page of this origin came from this very server. `null` did not."""
    return origin.partition("://")[2].lower() == host.lower() != ""
