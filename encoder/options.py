"""Options as frozen dataclasses: one help text a field, shared by Python, JSON and the command line."""

import difflib
from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any, TypeVar

from encoder.arguments import shown
from encoder.errors import ArgumentError

__all__ = ["option", "updated"]

Options = TypeVar("Options")


def option(default: Any, help: str, *flags: str, metavar: str | None = None) -> Any:
    """A field of an options dataclass, with the help that the command line shows.

    flags: how it is written there, where not as `--name`. metavar: what stands for its value there.
    """
    return field(default=default, metadata={"help": help, "flags": flags, "metavar": metavar})


def updated(options: Options, changes: Mapping[str, Any]) -> Options:
    """The same options but for `changes`. Raises ArgumentError for what is no option, with the nearest that is."""
    known = [f.name for f in fields(options)]  # type: ignore[arg-type]
    for name, value in changes.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5) or [
                n for n in known if n in name.split("_")
            ]
            remedy = f"pass {near[0]}=..." if near else f"the options are {', '.join(known)}"
            raise ArgumentError(f"{name}={shown(value)} is no option of {type(options).__name__}; {remedy}")
    return replace(options, **changes) if changes else options  # type: ignore[type-var]
