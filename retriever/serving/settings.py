"""What `latewood serve` may be told: ServeSettings and Limits. Imports nothing heavy, for help is made from it."""

import functools
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from encoder.errors import ArgumentError
from encoder.options import check, option
from retriever.options import Scoring

__all__ = ["Limits", "ServeSettings", "is_loopback", "named_folders"]

TOKEN_VARIABLE = "LATEWOOD_TOKEN"
_NAME = re.compile(r"[^\s/:@\[\]]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/A-Z?#@]+")


@dataclass(frozen=True)
class Limits:
    """What one request may ask, and how many may wait. What is beyond is refused, with the limit."""

    max_body: int = option(4_000_000, "Bytes of a request's body; of NDJSON, of a line.", least=1000)
    max_upload: int = option(1_000_000_000, "Bytes of documents sent as NDJSON.", least=1000)
    max_k: int = option(1000, "Hits of a search.", least=1)
    max_queries: int = option(64, "Queries of a search, all of which are answered together.", least=1)
    max_texts: int = option(1000, "Texts to rerank or to encode.", least=1)
    max_chars: int = option(
        100_000, "Characters of a query, a filter, or a text to rerank or encode.", least=1
    )
    max_waiting: int = option(256, "Requests that wait for each index; one more is answered by 503.", least=1)
    timeout: float = option(30.0, "Seconds until a request that is not answered gets a 503.", least=0.1)
    batch_ms: float = option(2.0, "Milliseconds in which queries that arrive are answered together.", least=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ServeSettings:
    """A server. indexes: name → an index, or any folder of text or code, whose index is then kept in the cache.

    Beyond loopback it wants a token, of token_file or of LATEWOOD_TOKEN, unless auth is False.
    """

    indexes: Mapping[str, Path] = field(default_factory=dict)
    host: str = option("127.0.0.1", "Address to listen on. Beyond this machine a token is needed.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.", least=0, most=65535)
    writable: bool = option(False, "Let documents be added, replaced and deleted.", "--writable")
    processes: int = option(
        1,
        "Processes that answer, each with the indexes open, which are then only read; see the guide.",
        least=1,
    )
    token_file: str | None = option(
        None,
        f"File whose text every request must bring as its bearer token; {TOKEN_VARIABLE} is another way.",
    )
    auth: bool = option(True, "Whether an address beyond this machine needs a token.")
    allowed_hosts: tuple[str, ...] = option(
        (), "Host name by which this server may be called, beside localhost. Repeatable.", "--allow-host"
    )
    cors: tuple[str, ...] = option((), "Origin whose pages may call, as https://example.org. Repeatable.")
    device: str | None = option(
        None, "A torch device that holds the codes and encodes; the processor if not given."
    )
    scoring: Scoring = field(default_factory=Scoring)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check(self)
        if self.processes > 1 and self.writable:
            raise ArgumentError(
                f"processes={self.processes} with writable=True; one process writes: leave one of them out"
            )
        for name in self.allowed_hosts:
            if not (_NAME.fullmatch(name) or _is_address(name)):
                raise ArgumentError(
                    f"allow_host={name!r} is no name of a host; pass one as search.example.org, without a port"
                )
        for origin in self.cors:
            if not _ORIGIN.fullmatch(origin):
                raise ArgumentError(
                    f"cors={origin!r} is no origin; pass one as browsers send it: https://example.org, without a path"
                )
        token = self.token  # of a file that cannot be read it is known now
        if not self.loopback and self.auth and token is None:
            raise ArgumentError(
                f"host={self.host!r} can be reached from other machines; pass --token-file FILE, set "
                f"{TOKEN_VARIABLE}, or pass --no-auth to serve everybody"
            )

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def token(self) -> str | None:
        """What every request must bring; None where none is asked for. Raises ArgumentError for a file without one."""
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        try:
            token = Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ArgumentError(f"token_file={self.token_file!r} cannot be read: {reason}") from None
        if not token:
            raise ArgumentError(f"token_file={self.token_file!r} is empty; write a token into it")
        return token


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@functools.lru_cache(1024)  # every request is asked for it
def is_loopback(host: str) -> bool:
    """Of an address or a name, whether only this machine reaches it."""
    return ipaddress.ip_address(host).is_loopback if _is_address(host) else host == "localhost"


def named_folders(given: list[str]) -> dict[str, Path]:
    """FOLDER or NAME=FOLDER → {name: folder}; without a name it is the folder's, less `.index`.

    Raises ArgumentError for two of one name.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or Path(text).is_dir():
            name, path = "", text
        folder = Path(path)
        name = name or folder.resolve().name.removesuffix(".index") or "index"
        if name in found:
            raise ArgumentError(
                f"{text} would be served as {name!r}, as {found[name]} is; give it another name: NAME={path}"
            )
        if "/" in name:
            raise ArgumentError(f"the name {name!r} has a slash; give one without: NAME=FOLDER")
        found[name] = folder
    return found
