"""`latewood train`: its commands, from the files that hold them."""

from retriever.cli.train import app
from retriever.cli.train_classify import classify_command
from retriever.cli.train_mlm import average_command, mlm_command
from retriever.cli.train_retrieval import colbert_command, dense_command

__all__ = ["app"]

app.command("colbert")(colbert_command)
app.command("dense")(dense_command)
app.command("mlm")(mlm_command)
app.command("average")(average_command)
app.command("classify")(classify_command)
