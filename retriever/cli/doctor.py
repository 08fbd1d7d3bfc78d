"""`latewood doctor`: what a model is, and its known traps."""

import json
from typing import Annotated

import typer

from retriever.cli.flags import flags
from retriever.cli.options import AsJson, ModelOptions

__all__ = ["doctor_command"]


@flags("model", "pool_factor", "precision", "workers")
def doctor_command(
    options: ModelOptions,
    model: Annotated[str, typer.Argument(help='"bundled", a model folder, or a hub name.')] = "bundled",
    code: Annotated[bool, typer.Option("--code", help="The corpus will be code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the loader understood of a model, and warn of known traps; or, with --device, what each part of Latewood
    does on a device and why.

    Example: latewood doctor lightonai/GTE-ModernColBERT-v1 --document-length 8192
    """
    if options.device is not None:
        from retriever.doctor import facts_of  # torch takes seconds

        facts = facts_of(options.building or "cpu")
        width = max(map(len, facts))
        lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
        typer.echo(json.dumps({"facts": facts}, indent=2) if as_json else "\n".join(lines))
        return
    from encoder.checkpoints.doctor import examine

    report = examine(model, document_length=options.document_length, code=code)
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else "\n".join(report.lines()))
