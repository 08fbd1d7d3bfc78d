"""The text files of a folder: which are read, which passed over and why, and in what encoding."""

import errno
import hashlib
import io
import os
import re
import stat
import time
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from encoder.errors import ArgumentError, CorpusError
from encoder.reading import NOT_REGULAR, exists, marked_encoding, open_regular
from indexing.reading.ignoring import Ignore, ignored, ignores_above, pattern_spec
from indexing.reading.notebooks import is_notebook, notebook_cells

__all__ = [
    "MAX_FILE_BYTES",
    "UNREADABLE",
    "VANISHED",
    "FolderReport",
    "Reading",
    "TextFile",
    "read_text",
    "text_files",
]

MAX_FILE_BYTES = 5_000_000
# Hand-written code averages 30-45 characters a line; bundles and data dumped as code average thousands.
_MINIFIED_CHARS_A_LINE = 300
UNREADABLE = "unreadable"
VANISHED = "vanished"
TOO_LARGE = "too large"
UNDECODED = "unknown encoding"
BROKEN_NOTEBOOK = "broken notebook"
# What a user would want to know of: the files are named wherever the report is shown.
_NAMED = {UNREADABLE, UNDECODED, BROKEN_NOTEBOOK, NOT_REGULAR, TOO_LARGE}
# A file as young as this when it is read may change again and keep its time: clocks of file systems are coarse.
_YOUNG_NS = 2_000_000_000


@dataclass
class FolderReport:
    """What a folder's reading met, filled while the passages are consumed.

    skipped counts by reason; a folder that is skipped counts once, whatever it holds. examples has up to
    three paths a reason. unreadable: all files and, with `/` at the end, folders that the system did not let read;
    vanished: those that were gone when their turn came. by_indentation counts by (reason, language) the files of code
    whose definitions were not looked for; the reasons are those of `indexing.reading.chunking.chunk_source`.
    """

    files: int = 0
    passages: int = 0
    by_indentation: Counter[tuple[str, str]] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)

    def skip(self, reason: str, path: str) -> None:
        self.skipped[reason] += 1
        if self.skipped[reason] <= 3:
            self.examples.setdefault(reason, []).append(path)
        if reason == UNREADABLE:
            self.unreadable.add(path)
        if reason == VANISHED:
            self.vanished.add(path)

    def __str__(self) -> str:
        """One line: `12 files (python 10, text 2), 80 passages; skipped 3: hidden 2, unreadable 1 (a.py)`."""
        line = f"{self.files:,} files"
        if self.languages:
            line += f" ({_counts(self.languages)})"
        line += f", {self.passages:,} passages"
        if large := sum(n for (reason, _), n in self.by_indentation.items() if reason == "too large"):
            line += f"; {large:,} large files were cut by indentation"
        if self.skipped:
            counts = (f"{r} {n:,}{self._names(r)}" for r, n in self.skipped.most_common())
            line += f"; skipped {self.skipped.total():,}: {', '.join(counts)}"
        return line

    def _names(self, reason: str) -> str:
        if reason not in _NAMED:
            return ""
        names = [name if name.isprintable() else repr(name) for name in self.examples[reason]]
        more = ["..."] if self.skipped[reason] > len(names) else []
        return f" ({', '.join(names + more)})"

    @property
    def refused(self) -> str:
        """One line where the system did not let something be read; else empty."""
        if not self.unreadable:
            return ""
        told = f"{len(self.unreadable):,} of its files and folders cannot be read{self._names(UNREADABLE)}"
        return f"{told}; change their permissions to have them searched too"

    @property
    def hint(self) -> str:
        """One line where the extra `code` would have cut files better; else empty."""
        missing: Counter[str] = Counter()
        for (reason, language), n in self.by_indentation.items():
            if reason in ("no grammar", "no parse"):
                missing[language] += n
        if not missing:
            return ""
        return (
            f"cut by indentation for want of grammars: {_counts(missing)}; "
            "pip install 'latewood[code]' cuts them at functions and classes"
        )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counter.most_common())


_LOCK_FILES = {
    "cargo.lock",
    "composer.lock",
    "gemfile.lock",
    "go.sum",
    "package-lock.json",
    "pdm.lock",
    "pipfile.lock",
    "pnpm-lock.yaml",
    "poetry.lock",
    "uv.lock",
    "yarn.lock",
}
_INSTALLED = {"node_modules", "site-packages", "dist-packages", "bower_components"}
# Other people's code in one's own repository. To index it, name the folder itself.
_VENDORED = {"vendor", "_vendor", "vendored", "third_party", "third-party", "thirdparty", "godeps", "pods"}
_INDEX = ("index.db", "shards.json", "build.json")  # beside index.lock; the last, where shards are being made
_TELLING = (*_INDEX, "index.lock", "pyvenv.cfg", "conda-meta")
_MINIFIED = re.compile(r"[.-]min\.(?:js|mjs|cjs|css)$|\.(?:js|mjs|cjs|css)\.map$", re.IGNORECASE)
_PROSE = {".txt", ".text", ".md", ".markdown", ".mdx", ".rst", ".adoc", ".asciidoc", ".org", ".tex", ".log"}
_CONTROL_BYTES = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one read of a file gave.

    text: empty where reason says why there is none to index. stamp: size and times, as `TextFile` has them before
    the file is read; empty where they do not tell whether it changes from now on. digest: of its bytes.
    """

    text: str = ""
    reason: str = ""
    stamp: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that the walk offers. relative: its path with `/`. stamp: its size and times."""

    path: Path
    relative: str
    stamp: str

    def read(self) -> Reading:
        """The one time that its bytes are read."""
        now = time.time_ns()
        try:
            with open_regular(self.path) as file:
                before = os.fstat(file.fileno())
                data = file.read()
                after = os.fstat(file.fileno())
        except OSError as error:
            return Reading(reason=NOT_REGULAR if error.strerror == NOT_REGULAR else _refusal(error))
        stamp = _stamp(before)
        if stamp != _stamp(after) or len(data) != after.st_size or after.st_mtime_ns > now - _YOUNG_NS:
            stamp = ""
        return Reading(*_text(data, self.path), stamp, hashlib.sha256(data).hexdigest())


def _stamp(status: os.stat_result) -> str:
    # The third is set by no program, so it tells a change from a tool that sets the second back.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def text_files(
    root: Path, exclude: Sequence[str], max_file_bytes: int, report: FolderReport
) -> Iterator[TextFile]:
    """The files to read, in the order of the walk; none is opened.

    `indexing.reading.corpus.read_folder` documents what is passed over.
    """
    for file, relative in _walk(root, exclude, report):
        try:
            status = file.stat()
        except OSError as error:
            report.skip(_refusal(error), relative)
            continue
        if status.st_size > max_file_bytes:
            report.skip(TOO_LARGE, relative)
        else:
            yield TextFile(file, relative, _stamp(status))


def read_text(file: Path) -> tuple[str, str]:
    """(text, "") or ("", why there is none)."""
    reading = TextFile(file, file.name, "").read()
    return reading.text, reading.reason


def _refusal(error: OSError) -> str:
    return VANISHED if isinstance(error, FileNotFoundError | NotADirectoryError) else UNREADABLE


def _text(data: bytes, path: Path) -> tuple[str, str]:
    """(text, "") or ("", why there is none)."""
    suffix = path.suffix.lower()
    text, reason = _decode(data, python=suffix in {".py", ".pyi", ".pyw"})
    if reason:
        return "", reason
    if not text.strip():
        return "", "empty"
    if is_notebook(path.name):
        return ("", BROKEN_NOTEBOOK) if notebook_cells(text) is None else (text, "")
    return ("", "very long lines") if suffix not in _PROSE and _is_minified(text) else (text, "")


def _decode(data: bytes, *, python: bool) -> tuple[str, str]:
    encoding = marked_encoding(data)
    if encoding is None and b"\0" in data:
        return "", "binary"
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeError:
        if encoding is None and _CONTROL_BYTES.search(data):  # a short archive or image may have no NUL
            return "", "binary"
        try:
            if encoding is not None or not python:
                return "", UNDECODED
            text = data.decode(tokenize.detect_encoding(io.BytesIO(data).readline)[0])
            text.encode()  # some of Python's encodings give halves of surrogate pairs
        except (SyntaxError, LookupError, UnicodeError):
            return "", UNDECODED
    return ("", "binary") if "\0" in text else (text, "")


def _is_minified(text: str) -> bool:
    return len(text) > 5_000 and len(text) > _MINIFIED_CHARS_A_LINE * (text.count("\n") + 1)


# The walk


def _walk(root: Path, exclude: Sequence[str], report: FolderReport) -> Iterator[tuple[Path, str]]:
    try:
        excluded = pattern_spec(exclude)
    except ValueError as error:
        raise ArgumentError(
            f"exclude={list(exclude)}: {error}; use .gitignore's form, as in 'tests/'"
        ) from None
    root = root.resolve()

    def level(folder: Path, above: str, ignores: list[Ignore]) -> _Level:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not above:
                raise CorpusError(
                    f"cannot list {root}: {error.strerror}; see that it is there and may be read"
                ) from error
            report.skip(_refusal(error), above)
            entries = []
        return _Level(above, [*ignores, *Ignore.read(folder, cut=len(above))], iter(entries))

    # A list of levels, for a generator in a generator would end at a thousand nested folders.
    levels = [level(root, "", ignores_above(root))]
    while levels:
        inside = levels[-1]
        entry = next(inside.entries, None)
        if entry is None:
            levels.pop()
            continue
        # Bytes that are no UTF-8 in a name are escaped, so that the doc_id is storable text.
        name = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
        is_folder = _is_folder(entry)
        relative = inside.above + name + ("/" if is_folder else "")
        reason = _folder_reason(entry) if is_folder else _file_reason(entry, root)
        if not reason and excluded.match_file(relative):
            reason = "excluded"
        if not reason and ignored(relative, inside.ignores):
            reason = "ignored by .gitignore"
        if reason:
            report.skip(reason, relative)
        elif is_folder:
            levels.append(level(Path(entry.path), relative, inside.ignores))
        else:
            yield Path(entry.path), relative


@dataclass(frozen=True, slots=True)
class _Level:
    """A folder of the walk. above: its path with `/` at the end. entries: those to come."""

    above: str
    ignores: list[Ignore]
    entries: Iterator[os.DirEntry[str]]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one; _file_reason names it
        return False


def _folder_reason(entry: os.DirEntry[str]) -> str:
    """Why a folder is not entered; empty when it is."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink():
        return "link to a folder"
    if entry.name == "__pycache__":
        return "cache"
    if entry.name in _INSTALLED:
        return "installed packages"
    if entry.name.lower() in _VENDORED:
        return "vendored"
    holds = {name: exists(Path(entry.path, name)) for name in _TELLING}
    if holds["index.lock"] and any(holds[name] for name in _INDEX):
        return "Latewood index"
    if holds["pyvenv.cfg"] or holds["conda-meta"]:
        return "virtual environment"
    return ""


def _file_reason(entry: os.DirEntry[str], root: Path) -> str:
    """Why a file is not read; empty when it is."""
    if entry.name.startswith("."):
        return "hidden"
    try:
        if not stat.S_ISREG(entry.stat().st_mode):
            return NOT_REGULAR
        if entry.is_symlink() and Path(os.path.realpath(entry.path)).is_relative_to(root):
            return "link within the folder"
    except OSError as error:
        if error.errno == errno.ELOOP or isinstance(error, FileNotFoundError):
            return "broken link" if entry.is_symlink() else VANISHED
        return UNREADABLE
    if entry.name.lower() in _LOCK_FILES:
        return "lock file"
    if _MINIFIED.search(entry.name):
        return "minified"
    return ""
