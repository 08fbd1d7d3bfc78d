"""What git ignores: .gitignore files, the repository's own excludes and the user's."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from encoder.reading import exists, marked_encoding, open_regular
from indexing.reading.git import ask_git

__all__ = ["Ignore", "ignored", "ignores_above", "pattern_spec"]


@dataclass(frozen=True, slots=True)
class Ignore:
    """The patterns of one file; a path of the walk is, seen from there, prefix + path[cut:]."""

    spec: GitIgnoreSpec
    prefix: str
    cut: int

    @classmethod
    def read(cls, folder: Path, prefix: str = "", cut: int = 0) -> list["Ignore"]:
        """Of a folder's ignore files those that can be read, the one that decides last.

        They are in UTF-8 or what a byte order mark says; git passes over a pattern that it cannot read.
        """
        return [cls(_readable(lines), prefix, cut) for file in _files(folder) if (lines := _lines(file))]


def pattern_spec(lines: Iterable[str]) -> GitIgnoreSpec:
    """Patterns in .gitignore's form. Raises ValueError for one that cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what `re` may read otherwise one day
        try:
            return GitIgnoreSpec.from_lines(lines)
        except re.error as error:
            raise ValueError(str(error)) from error


def _readable(lines: Sequence[str]) -> GitIgnoreSpec:
    try:
        return pattern_spec(lines)
    except ValueError:
        return pattern_spec(line for line in lines if _is_pattern(line))


def _is_pattern(line: str) -> bool:
    try:
        pattern_spec([line])
    except ValueError:
        return False
    return True


def _lines(file: Path) -> list[str]:
    try:
        with open_regular(file) as opened:
            data = opened.read()
    except OSError:
        return []
    # As git cuts them: str.splitlines would also cut at form feeds and U+2028.
    return re.split(r"\r?\n", data.decode(marked_encoding(data) or "utf-8", "replace"))


def _files(folder: Path) -> Iterator[Path]:
    git = folder / ".git"
    if exists(git):
        chosen = ask_git(folder, "config", "--type=path", "--get", "core.excludesFile")
        settings = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        yield folder / chosen if chosen else Path(settings, "git", "ignore").expanduser()
        yield _common(git) / "info" / "exclude"
    yield folder / ".gitignore"


def _common(git: Path) -> Path:
    """The folder that the work trees of a repository share. In all but the first `.git` is a file that leads there."""
    if (lines := _lines(git)) and lines[0].startswith("gitdir:"):
        git = git.parent / lines[0].removeprefix("gitdir:").strip()
    return git / shared[0].strip() if (shared := _lines(git / "commondir")) else git


def ignored(path: str, ignores: Sequence[Ignore]) -> bool:
    """The deepest file that says anything of the path decides."""
    for ignore in reversed(ignores):
        decided = ignore.spec.check_file(ignore.prefix + path[ignore.cut :]).include
        if decided is not None:
            return decided
    return False


def ignores_above(root: Path) -> list[Ignore]:
    """Of the repository around root, unless they say root itself is ignored: then the user knows better."""
    folders = [root, *root.parents]
    top = next((i for i, folder in enumerate(folders) if exists(folder / ".git")), 0)
    ignores = [
        ignore
        for folder in reversed(folders[1 : top + 1])
        for ignore in Ignore.read(folder, prefix=root.relative_to(folder).as_posix() + "/")
    ]
    return [] if ignored("", ignores) else ignores
