"""Options as frozen dataclasses: one help text a field, shared by Python, JSON and the command line."""

import os
from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin

from encoder.arguments import as_integer, as_list, as_number, did_you_mean, shown
from encoder.errors import ArgumentError

__all__ = ["check", "option", "updated"]

Options = TypeVar("Options")


def option(
    default: Any,
    help: str,
    *flags: str,
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of an options dataclass, with the help that the command line shows.

    default: `dataclasses.MISSING` for one that must be given. flags: how it is written on the command line, where not
    as `--name`. metavar: what stands for its value there. least, most: the range of a number, for `check`.
    """
    metadata = {"help": help, "flags": flags, "metavar": metavar, "least": least, "most": most}
    return field(default=default, metadata=metadata)


def check(options: Any) -> None:
    """For `__post_init__`: every field is of its type (int, float, bool, str, a Literal, a tuple of those) and in its
    range; NumPy's numbers become Python's, paths strings, lists tuples. Other types are left alone."""
    for f in fields(options):
        value = _checked(getattr(options, f.name), f.name, f.type, f.metadata)
        object.__setattr__(options, f.name, value)


def _checked(value: Any, name: str, kind: Any, metadata: Mapping[str, Any]) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_checked(one, name, get_args(kind)[0], metadata) for one in as_list(value, name))
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ArgumentError(f"{name}={shown(value)}; pass one of {', '.join(get_args(kind))}")
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind in (bool, str) and not isinstance(value, kind):
        remedy = "a string" if kind is str else "True or False"
        raise ArgumentError(f"{name}={shown(value)} is {type(value).__name__}; pass {remedy}")
    if kind in (int, float):
        value = as_integer(value, name) if kind is int else as_number(value, name)
        least, most = metadata.get("least"), metadata.get("most")
        if least is not None and value < least:
            raise ArgumentError(f"{name}={value}; pass {name} >= {least}")
        if most is not None and value > most:
            raise ArgumentError(f"{name}={value}; pass {name} <= {most}")
    return value


def updated(options: Options, changes: Mapping[str, Any]) -> Options:
    """The same options but for `changes`. Raises ArgumentError for what is no option, with the nearest that is."""
    known = [f.name for f in fields(options)]  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            raise ArgumentError(
                f"{name} is no option of {type(options).__name__}; {did_you_mean(name, known)}"
            )
    return replace(options, **changes) if changes else options  # type: ignore[type-var]
