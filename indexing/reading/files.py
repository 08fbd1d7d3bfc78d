"""The text files of a folder: which are read, which passed over and why, and in what encoding."""

import codecs
import io
import os
import re
import stat
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from encoder.errors import ArgumentError, CorpusError

__all__ = [
    "MAX_FILE_BYTES",
    "FolderReport",
    "TextFile",
    "head_commit",
    "read_text",
    "text_files",
]

MAX_FILE_BYTES = 5_000_000
# Hand-written code averages 30-45 characters a line; bundles and data dumped as code average thousands.
_MINIFIED_CHARS_A_LINE = 300


@dataclass
class FolderReport:
    """What a folder's reading met, filled while the passages are consumed.

    skipped counts by reason; a folder that is skipped counts once, whatever it holds. examples has up to
    three paths a reason. by_indentation counts by (reason, language) the files of code whose definitions were
    not looked for; the reasons are those of `indexing.reading.chunking.chunk_source`.
    """

    files: int = 0
    passages: int = 0
    by_indentation: Counter[tuple[str, str]] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, path: str) -> None:
        self.skipped[reason] += 1
        if self.skipped[reason] <= 3:
            self.examples.setdefault(reason, []).append(path)

    def merge(self, other: "FolderReport") -> None:
        """Add another's counts."""
        self.files += other.files
        self.passages += other.passages
        self.by_indentation += other.by_indentation
        self.languages += other.languages
        for reason, paths in other.examples.items():
            for path in paths:
                self.skip(reason, path)
            self.skipped[reason] += other.skipped[reason] - len(paths)

    def __str__(self) -> str:
        """One line: `12 files (python 10, markdown 2), 80 passages; skipped 3: hidden 2, binary 1`."""
        line = f"{self.files:,} files"
        if self.languages:
            line += f" ({_counts(self.languages)})"
        line += f", {self.passages:,} passages"
        if large := sum(n for (reason, _), n in self.by_indentation.items() if reason == "too large"):
            line += f"; {large:,} large files were cut by indentation"
        if self.skipped:
            line += f"; skipped {self.skipped.total():,}: {_counts(self.skipped)}"
        return line

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
_MINIFIED = re.compile(r"[.-]min\.(?:js|mjs|cjs|css)$|\.(?:js|mjs|cjs|css)\.map$", re.IGNORECASE)
_PROSE = {".txt", ".text", ".md", ".markdown", ".mdx", ".rst", ".adoc", ".asciidoc", ".org", ".tex", ".log"}
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with UTF-16's, so comes first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL_BYTES = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that the walk offers. relative: its path with `/`. size, mtime_ns: to tell whether it changed."""

    path: Path
    relative: str
    size: int
    mtime_ns: int

    def read(self, report: FolderReport) -> str | None:
        """Its text; None, and a count in `report`, where it has none to index."""
        text, reason = read_text(self.path)
        if not reason and self.path.suffix.lower() not in _PROSE and _is_minified(text):
            reason = "very long lines"
        if reason:
            report.skip(reason, self.relative)
        return None if reason else text


def text_files(
    root: Path, exclude: Sequence[str], max_file_bytes: int, report: FolderReport
) -> Iterator[TextFile]:
    """The files to read, in the order of the walk; none is opened.

    `indexing.reading.corpus.read_folder` documents what is passed over.
    """
    for file, relative in _walk(root, exclude, report):
        try:
            status = file.stat()
        except OSError:
            report.skip("unreadable", relative)
            continue
        if status.st_size > max_file_bytes:
            report.skip("too large", relative)
        else:
            yield TextFile(file, relative, status.st_size, status.st_mtime_ns)


def head_commit(folder: Path) -> str | None:
    """HEAD of the git work tree that holds a folder; None where there is none, or no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    commit = done.stdout.strip()
    return commit if done.returncode == 0 and commit else None


def read_text(file: Path) -> tuple[str, str]:
    """(text, "") or ("", why there is none)."""
    try:
        data = file.read_bytes()
    except OSError:
        return "", "unreadable"
    text = _decode(data, python=file.suffix in {".py", ".pyi", ".pyw"})
    if text is None:
        return "", "binary"
    return (text, "") if text.strip() else ("", "empty")


def _decode(data: bytes, *, python: bool) -> str | None:
    try:
        for mark, encoding in _BOMS:
            if data.startswith(mark):
                return data.decode(encoding)
        if b"\0" in data:
            return None
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    if python:
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            return data.decode(encoding)
        except (SyntaxError, LookupError, UnicodeError):
            pass
    # A short archive or image may have no NUL; Latin-1 text has no control characters.
    return None if _CONTROL_BYTES.search(data) else data.decode("latin-1")


def _is_minified(text: str) -> bool:
    return len(text) > 5_000 and len(text) > _MINIFIED_CHARS_A_LINE * (text.count("\n") + 1)


# The walk


@dataclass(frozen=True, slots=True)
class _Ignore:
    """The patterns of one .gitignore; a path of the walk is, seen from there, prefix + path[cut:]."""

    spec: GitIgnoreSpec
    prefix: str
    cut: int

    @classmethod
    def read(cls, folder: Path, prefix: str = "", cut: int = 0) -> list["_Ignore"]:
        try:
            lines = (folder / ".gitignore").read_text("utf-8", "replace").splitlines()
        except OSError:
            return []
        return [cls(GitIgnoreSpec.from_lines(line for line in lines if _is_pattern(line)), prefix, cut)]


def _is_pattern(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False  # git passes over what it cannot read
    return True


def _ignored(path: str, ignores: Sequence[_Ignore]) -> bool:
    """The deepest .gitignore that says anything of the path decides."""
    for ignore in reversed(ignores):
        decided = ignore.spec.check_file(ignore.prefix + path[ignore.cut :]).include
        if decided is not None:
            return decided
    return False


def _ignores_above(root: Path) -> list[_Ignore]:
    """Of the repository around root, unless they say root itself is ignored: then the user knows better."""
    folders = [root, *root.parents]
    top = next((i for i, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    ignores = [
        ignore
        for folder in reversed(folders[1 : top + 1])
        for ignore in _Ignore.read(folder, prefix=root.relative_to(folder).as_posix() + "/")
    ]
    return [] if _ignored("", ignores) else ignores


def _walk(root: Path, exclude: Sequence[str], report: FolderReport) -> Iterator[tuple[Path, str]]:
    try:
        excluded = GitIgnoreSpec.from_lines(exclude)
    except ValueError as error:
        raise ArgumentError(
            f"exclude={list(exclude)}: {error}; use .gitignore's form, as in 'tests/'"
        ) from None
    root = root.resolve()

    def visit(folder: Path, above: str, ignores: list[_Ignore]) -> Iterator[tuple[Path, str]]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not above:
                raise CorpusError(f"cannot list {root}: {error.strerror}; check its permissions") from error
            report.skip("unreadable", above)
            return
        ignores = [*ignores, *_Ignore.read(folder, cut=len(above))]
        for entry in entries:
            # Bytes that are no UTF-8 in a name are escaped, so that the doc_id is storable text.
            name = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
            is_folder = _is_folder(entry)
            relative = above + name + ("/" if is_folder else "")
            reason = _folder_reason(entry) if is_folder else _file_reason(entry, root)
            if not reason and excluded.match_file(relative):
                reason = "excluded"
            if not reason and _ignored(relative, ignores):
                reason = "ignored by .gitignore"
            if reason:
                report.skip(reason, relative)
            elif is_folder:
                yield from visit(folder / entry.name, relative, ignores)
            else:
                yield folder / entry.name, relative

    yield from visit(root, "", _ignores_above(root))


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
    if Path(entry.path, "index.db").exists() and Path(entry.path, "index.lock").exists():
        return "Latewood index"
    if Path(entry.path, "pyvenv.cfg").exists() or Path(entry.path, "conda-meta").exists():
        return "virtual environment"
    return ""


def _file_reason(entry: os.DirEntry[str], root: Path) -> str:
    """Why a file is not read; empty when it is."""
    if entry.name.startswith("."):
        return "hidden"
    try:
        if not stat.S_ISREG(entry.stat().st_mode):
            return "not a regular file"
        if entry.is_symlink() and Path(entry.path).resolve().is_relative_to(root):
            return "link within the folder"
    except OSError:
        return "broken link"
    if entry.name.lower() in _LOCK_FILES:
        return "lock file"
    if _MINIFIED.search(entry.name):
        return "minified"
    return ""
