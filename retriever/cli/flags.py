"""A command's flags from the fields of the dataclasses that they fill, so that help, JSON and Python agree."""

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

import typer

__all__ = ["flags"]


def flags(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer: a parameter that is an options dataclass becomes a flag for each field that has a help text
    (`encoder.options.option`); the others are typer's as they stand. What the dataclass refuses is one line."""
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[tuple[Field[Any], Any]]]] = {}
    for parameter in signature.parameters.values():
        kind = hints[parameter.name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        own = get_type_hints(kind)
        shown = [(f, own[f.name]) for f in fields(kind) if "help" in f.metadata]
        groups[parameter.name] = kind, shown
        parameters += [_parameter(*field) for field in shown]
    names = [parameter.name for parameter in parameters]
    assert len(names) == len(set(names)), f"{command.__name__}: two options dataclasses share a field"

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, (kind, own) in groups.items():
            values[name] = kind(
                **{field.name: _given(field, hint, values.pop(field.name)) for field, hint in own}
            )
        command(**values)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # whose signature typer would take
    return run


def _parameter(field: Field[Any], kind: Any) -> inspect.Parameter:
    names = field.metadata["flags"] or (f"--{field.name.replace('_', '-')}",)
    if kind is bool and not any("/" in name for name in names) and field.default is True:
        names = (f"{names[0]}/--no-{names[0].removeprefix('--')}",)
    default = None if field.default is MISSING else field.default
    if default == ():
        default = None
    option = typer.Option(*names, help=field.metadata["help"], metavar=field.metadata["metavar"])
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[_on_the_line(kind), option],
    )


def _on_the_line(kind: Any) -> Any:
    """The type that typer reads for a field: choices are checked by the dataclass, a tuple of any length repeats."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        known = [_on_the_line(one) for one in inner if one is not type(None)]
        return Optional[known[0] if len(known) == 1 else str]  # noqa: UP045  (made at run time)
    if origin is Literal:
        return str
    if origin is tuple and len(inner) == 2 and inner[1] is ...:
        return Optional[types.GenericAlias(list, inner[:1])]  # noqa: UP045
    return kind


def _given(field: Field[Any], kind: Any, value: Any) -> Any:
    """What the dataclass is to have: tuples for lists, numbers where a field takes numbers and words."""
    if value is None and field.default is not MISSING:
        return field.default
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and int in get_args(kind) and value.lstrip("-").isdecimal():
        return int(value)
    return value
