"""Options as frozen dataclasses: one help text a field, shared by Python, JSON and the command line."""

from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any, TypeVar

from encoder.arguments import did_you_mean
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
    for name in changes:
        if name not in known:
            raise ArgumentError(
                f"{name} is no option of {type(options).__name__}; {did_you_mean(name, known)}"
            )
    return replace(options, **changes) if changes else options  # type: ignore[type-var]
