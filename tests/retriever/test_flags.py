"""Commands whose flags are the fields of dataclasses: help, defaults, types, and what the dataclass refuses."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from encoder.errors import ArgumentError
from encoder.options import option
from retriever.cli import app
from retriever.cli.flags import flags
from retriever.code.search import CodeOptions
from retriever.options import Scoring, SearchOptions


@dataclass(frozen=True)
class Baking:
    """How bread is baked."""

    size: int = option(10, "How many loaves.", "-n")
    flour: str = option("rye", "Which flour.")
    heat: float = option(220.5, "Degrees.")
    crust: bool = option(True, "Bake it brown.")
    steam: bool = option(False, "Pour water.")
    seeds: tuple[str, ...] = option((), "A kind of seed. Repeatable.", "--seed")
    rests: tuple[int, ...] = option((), "Minutes. Repeatable.")
    ratio: tuple[float, float] | None = option(None, "Of water and of salt.")
    minutes: int | Literal["long"] | None = option(None, "Time in the oven.", metavar="N|long")
    oven: Literal["gas", "wood"] = option("gas", "What heats it.")
    secret: int = 7

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ArgumentError(f"size={self.size}; pass size >= 1")
        if self.oven not in ("gas", "wood"):
            raise ArgumentError(f"oven={self.oven!r}; pass gas or wood")


@dataclass(frozen=True)
class Selling:
    price: int = option(3, "In coins.")
    bake: bool = option(False, "Has the name of a parameter.")
    colour: str = option("brown", "Not on the line.")


@pytest.fixture
def command() -> Any:
    """run(arguments) → what the command got, or click's result where it got nothing."""
    got: list[Any] = []
    app = typer.Typer()

    @app.command()
    @flags("colour")
    def main(
        name: Annotated[str, typer.Argument(help="Whose.")],
        bake: Baking,
        sell: Selling = Selling(price=5, colour="white"),
        loud: Annotated[bool, typer.Option("--loud", help="Shout.")] = False,
    ) -> None:
        """Bake and sell."""
        got.append((name, bake, sell, loud))

    def run(*arguments: str) -> Any:
        got.clear()
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
        return got[0] if got else result

    return run


def test_help_shows_each_field(command: Any) -> None:
    shown = command("--help").output
    for field in (*fields(Baking), *fields(Selling)):
        if "help" in field.metadata and field.name != "colour":
            assert field.metadata["help"] in shown
    for flag in (
        "-n",
        "--flour",
        "--heat",
        "--crust",
        "--no-crust",
        "--steam",
        "--seed",
        "--rests",
        "--ratio",
    ):
        assert flag in shown
    assert "N|long" in shown
    assert "--no-steam" not in shown
    assert "--secret" not in shown
    assert "--colour" not in shown
    assert "--loud" in shown
    assert "Bake and sell." in shown


def test_defaults_are_the_dataclass_s_or_the_parameter_s(command: Any) -> None:
    name, bake, sell, loud = command("ann")
    assert (name, loud) == ("ann", False)
    assert bake == Baking()
    assert (sell.price, sell.bake) == (5, False)


def test_types_arrive(command: Any) -> None:
    arguments = ["-n", "3", "--flour", "wheat", "--heat", "180", "--no-crust", "--steam", "--oven", "wood"]
    arguments += ["--seed", "flax", "--seed", "poppy", "--rests", "20", "--ratio", "0.6", "0.02"]
    arguments += ["--minutes", "45", "--price", "9", "--bake", "--loud"]
    _, bake, sell, loud = command("ann", *arguments)
    assert bake == Baking(3, "wheat", 180.0, False, True, ("flax", "poppy"), (20,), (0.6, 0.02), 45, "wood")
    assert [type(value) for value in (bake.size, bake.heat, bake.seeds, bake.ratio, bake.minutes)] == [
        *(int, float, tuple, tuple, int)
    ]
    assert (sell.price, sell.bake, loud) == (9, True, True)
    assert command("ann", "--minutes", "long")[1].minutes == "long"


def test_what_the_dataclass_refuses_is_one_line(command: Any) -> None:
    for arguments, message in (
        (["-n", "0"], "size=0; pass size >= 1"),
        (["--oven", "coal"], "oven='coal'; pass gas or wood"),
    ):
        result = command("ann", *arguments)
        assert isinstance(result.exception, ArgumentError)
        assert str(result.exception) == message


def test_what_is_no_number_is_refused_by_the_command_line(command: Any) -> None:
    for arguments in (
        ["-n", "many"],
        ["--heat", "hot"],
        ["--ratio", "1"],
        ["--rests", "x"],
        ["--secret", "1"],
    ):
        assert command("ann", *arguments).exit_code == 2


def test_search_has_every_option_of_a_search() -> None:
    shown = CliRunner().invoke(app, ["search", "--help"], env={"COLUMNS": "300"}).output
    for kind in (SearchOptions, Scoring, CodeOptions):
        for field in fields(kind):
            for flag in field.metadata["flags"] or [f"--{field.name}"]:
                assert flag in shown
            assert field.metadata["help"] in shown
    for arguments, message in (
        (["-k", "0"], "k=0; pass k >= 1"),
        (["--mode", "bm25"], "mode='bm25'; pass one of late, lexical, hybrid"),
        (["--sharpness", "99"], "sharpness=99.0"),
        (["--by", "passage", "--mode", "lexical"], 'by="passage" with mode="lexical"'),
    ):
        result = CliRunner().invoke(app, ["search", "nowhere.index", "w1", *arguments])
        assert message in str(result.exception)
        assert "\n" not in str(result.exception)
