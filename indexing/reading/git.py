"""Questions to git."""

import subprocess
from pathlib import Path

__all__ = ["ask_git", "head_commit"]


def ask_git(folder: Path, *question: str) -> str | None:
    """What git answers in a folder; None where it has no answer, or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *question], capture_output=True, check=False, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "surrogateescape").strip() or None if done.returncode == 0 else None


def head_commit(folder: Path) -> str | None:
    """HEAD of the git work tree that holds a folder; None where there is none, or no git."""
    return ask_git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
