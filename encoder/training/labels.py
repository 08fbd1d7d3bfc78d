"""Labelled texts of classification and regression, and the metrics that GLUE scores them by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import ArgumentError, CorpusError, MissingDependencyError
from encoder.jsonl import read_rows
from encoder.tokenizer import LateTokenizer

__all__ = ["METRICS", "LabelledText", "encode_texts", "label_names", "metric", "read_labelled"]

LABEL: Any = (int, str, float)
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelledText:
    """pair: the second text, "" where there is one only."""

    text: str
    pair: str
    label: int | str | float


def read_labelled(path: Path) -> list[LabelledText]:
    """{"text": ..., "text_pair": optional, "label": int, str or float}, a line each; .jsonl or .jsonl.gz."""
    found = []
    for row in read_rows(path):
        label: int | str | float = row.get("label", LABEL)
        found.append(LabelledText(row.get("text", str), row.get("text_pair", str, "") or "", label))
    if not found:
        raise CorpusError(f"{path} holds no examples; pass a file with at least one")
    return found


def label_names(examples: Sequence[LabelledText]) -> list[int | str] | None:
    """The classes in order, or None for a regression: labels with a float among them are numbers."""
    labels = [e.label for e in examples]
    numbers = [label for label in labels if not isinstance(label, str)]
    if numbers and len(numbers) < len(labels):
        raise CorpusError(f"labels are numbers and strings, such as {numbers[0]!r}; write one kind")
    if any(isinstance(label, float) for label in labels):
        return None
    names: list[int | str] = [*sorted({x for x in labels if isinstance(x, int)})]
    names += sorted({x for x in labels if isinstance(x, str)})
    if len(names) < 2:
        raise CorpusError(f"every label is {names[0]!r}; a classification needs two")
    return names


def encode_texts(examples: Sequence[LabelledText], tokenizer: LateTokenizer, length: int) -> list[list[int]]:
    """Token ids: CLS text SEP, or CLS text SEP pair SEP; what is over `length` goes from the longer one's end."""
    before, after = tokenizer.before, tokenizer.after
    firsts = tokenizer.encode([e.text for e in examples])
    seconds = tokenizer.encode([e.pair for e in examples])
    encoded = []
    for example, first, second in zip(examples, firsts, seconds, strict=True):
        around = len(before) + len(after) * (2 if example.pair else 1)
        a, b = _cut(first.ids, second.ids, length - around)
        encoded.append([*before, *a, *after, *((*b, *after) if example.pair else ())])
    return encoded


def _cut(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    half = room // 2
    if len(b) <= half:
        return a[: room - len(b)], b
    if len(a) <= room - half:
        return a, b[: room - len(a)]
    return a[: room - half], b[:half]


def _accuracy(gold: Numbers, found: Numbers) -> float:
    return float((gold == found).mean())


def _f1(gold: Numbers, found: Numbers) -> float:
    """Of class 1 where there are two, as GLUE has it; else the mean over classes."""
    from sklearn.metrics import f1_score

    two = max(gold.max(), found.max()) <= 1
    return float(f1_score(gold, found, average="binary" if two else "macro", zero_division=0.0))


def _mcc(gold: Numbers, found: Numbers) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(gold, found))


def _correlation(name: str) -> Callable[[Numbers, Numbers], float]:
    def of(gold: Numbers, found: Numbers) -> float:
        from scipy import stats

        if np.ptp(found) == 0 or np.ptp(gold) == 0:  # a constant correlates with nothing
            return 0.0
        return float(getattr(stats, name)(gold, found).statistic)

    return of


METRICS: dict[str, Callable[[Numbers, Numbers], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
    "spearman": _correlation("spearmanr"),
    "pearson": _correlation("pearsonr"),
}


def metric(name: str, *, regression: bool) -> Callable[[Any, Any], float]:
    """The metric of that name, (gold, predicted) → number, higher is better; "" for the task's usual one."""
    name = name or ("spearman" if regression else "accuracy")
    if name not in METRICS:
        raise ArgumentError(f"metric={name!r}; pass one of {', '.join(METRICS)}")
    if regression != (name in ("spearman", "pearson")):
        raise ArgumentError(
            f"metric={name!r} is not for {'numbers' if regression else 'classes'}; pass another"
        )
    function = METRICS[name]
    try:
        function(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    except ImportError as error:
        raise MissingDependencyError(
            f"metric={name!r} needs scikit-learn and scipy; pip install 'latewood[classify]'"
        ) from error
    return function
