"""A command's flags from the fields of the dataclasses that they fill, so that help, JSON and Python agree."""

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

import typer

from encoder.errors import ArgumentError

__all__ = ["flags"]

Command = Callable[..., None]


def flags(*without: str) -> Callable[[Command], Command]:
    """Make a function a command for typer: a parameter that is an options dataclass becomes a flag for each field
    that has a help text (`encoder.options.option`), but for those named in `without`. The parameter's default, where
    it has one, gives the fields' defaults. Other parameters are typer's as they stand."""
    return functools.partial(_with_flags, without)


@dataclass(frozen=True)
class _Flag:
    """name: of the field. kind: its type. default: MISSING where it must be given."""

    name: str
    kind: Any
    default: Any
    metadata: Any

    @property
    def with_commas(self) -> bool:
        """Numbers that stand in place of others are one value, as 128,256; those added to none are repeated."""
        return self.kind == tuple[int, ...] and self.default not in ((), MISSING)

    def parameter(self) -> inspect.Parameter:
        names = self.metadata["flags"] or (f"--{self.name.replace('_', '-')}",)
        if self.kind is bool and self.default is True:
            names = (f"{names[0]}/--no-{names[0].removeprefix('--')}",)
        known = ("help", "metavar", *(("min", "max") if self.kind in (int, float) else ()))
        of = self.metadata | {"min": self.metadata["least"], "max": self.metadata["most"]}
        option = typer.Option(*names, **{name: of[name] for name in known})
        default = self.default
        if default is MISSING:
            default = inspect.Parameter.empty
        elif self.with_commas:
            default = ",".join(map(str, default))
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if default == () else default,
            annotation=Annotated[str if self.with_commas else _on_the_line(self.kind), option],
        )

    def read(self, value: Any) -> Any:
        """What the dataclass is to have: tuples for lists, numbers where a field takes numbers and words."""
        if value is None:
            return self.default
        if isinstance(value, list):
            return tuple(value)
        if self.with_commas:
            try:
                return tuple(int(part) for part in value.split(","))
            except ValueError:
                raise ArgumentError(
                    f"{self.name}={value!r}; write numbers with commas between them: 128,256"
                ) from None
        if isinstance(value, str) and int in get_args(self.kind) and value.lstrip("-").isdecimal():
            return int(value)
        return value


def _with_flags(without: tuple[str, ...], command: Command) -> Command:
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Callable[..., Any], list[_Flag]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and is_dataclass(kind):
            given = None if parameter.default is inspect.Parameter.empty else parameter.default
            own = _flags_of(kind, given, without)
            groups[parameter.name] = kind if given is None else functools.partial(replace, given), own
            parameters += [flag.parameter() for flag in own]
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    names = [parameter.name for parameter in parameters]
    assert len(names) == len(set(names)), f"{command.__name__}: two options dataclasses share a field"

    @functools.wraps(command)
    def run(**values: Any) -> None:
        # Apart from the flags' own values: a dataclass may be called as a flag is.
        filled = {
            name: make(**{flag.name: flag.read(values.pop(flag.name)) for flag in own})
            for name, (make, own) in groups.items()
        }
        command(**values, **filled)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # whose signature typer would take
    return run


def _flags_of(kind: type[Any], given: Any, without: tuple[str, ...]) -> list[_Flag]:
    hints, found = get_type_hints(kind), []
    for field in fields(kind):
        if "help" in field.metadata and field.name not in without:
            default = field.default if given is None else getattr(given, field.name)
            found.append(_Flag(field.name, hints[field.name], default, field.metadata))
    return found


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
