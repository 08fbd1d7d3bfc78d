"""Flags made from the fields of a dataclass: names, defaults, ranges, numbers with commas, what must be given."""

from dataclasses import MISSING, dataclass

import pytest
import typer
from typer.testing import CliRunner

from encoder.errors import ArgumentError
from encoder.options import option
from retriever.cli import app
from retriever.cli.flags import flags


@dataclass(frozen=True)
class Some:
    model: str = option(MISSING, "A model.")
    sizes: tuple[int, ...] = option((1, 2), "Sizes.")
    names: tuple[str, ...] = option((), "A name.", "--name")
    n: int = option(3, "How many.", "--number", least=1)
    half: bool = option(True, "By halves.")
    hidden: str = "own"


def run(given, *arguments, without=()):
    seen = []
    command = typer.Typer()

    def body(some: Some = given) -> None:
        seen.append(some)

    if given is None:
        body.__defaults__ = None
    command.command()(flags(*without)(body))
    result = CliRunner().invoke(command, list(map(str, arguments)))
    return seen[0] if seen else result


def test_a_command_is_given_the_dataclass_that_its_flags_fill():
    assert run(None, "--model", "m") == Some("m")
    arguments = ["--sizes", "4,5,6", "--name", "a", "--name", "b", "--number", 7, "--no-half"]
    assert run(None, "--model", "m", *arguments) == Some("m", (4, 5, 6), ("a", "b"), 7, False)


def test_a_default_of_the_parameter_holds_for_all_fields_those_without_a_flag_too():
    given = Some("d", (9,), (), 8, False, hidden="theirs")
    assert run(given, without=("n",)) == given
    assert run(given, "--sizes", 1) == Some("d", (1,), (), 8, False, hidden="theirs")


def test_what_must_be_given_or_lies_outside_its_range_is_refused():
    assert "Missing option '--model'" in run(None).output
    result = run(None, "--model", "m", "--number", 0)
    assert result.exit_code == 2
    assert "--number" in result.output
    result = run(None, "--model", "m", "--sizes", "1,b")
    assert isinstance(result.exception, ArgumentError)
    assert str(result.exception) == "sizes='1,b'; write numbers with commas between them: 128,256"


@pytest.mark.parametrize(("command", "there", "away"), [
    ("mlm", "--tokenizer --size --layers --batch-size-start --checkpoint-every --save-every --threads", "--shape"),
    ("distill", "--teacher --layers --heads --batch-tokens --start-from --no-half --save-every", "--chunk-lengths"),
    ("colbert", "--negatives --document-lengths --unlabelled --teacher-kl-weight --idf --eval --half", "--similarity"),
    ("dense", "--negatives --document-lengths --temperature --eval --patience", "--teacher"),
    ("classify", "--model --eval --pooling --metric --eval-every --epochs", "--half"),
    ("mine", "--negatives --depth --max-ratio --model --document-length", "--pool-factor"),
])  # fmt: skip
def test_the_flags_of_training(command, there, away):
    shown = CliRunner().invoke(app, ["train", command, "--help"], env={"COLUMNS": "200"}).output
    assert [flag for flag in there.split() if flag not in shown] == []
    assert f"{away} " not in shown
    if command == "dense":
        assert "[default: 0.05]" in shown
