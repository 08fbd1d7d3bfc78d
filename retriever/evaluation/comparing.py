"""Two reports of the same data, query by query: is the difference more than chance?

The paired t-test is scipy's; the randomisation test swaps the two scores of each query at random (Smucker,
Allan and Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval Evaluation",
CIKM 2007, who found the two to agree and to be the ones to use).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from encoder.arguments import as_list
from encoder.errors import ArgumentError, CorpusError, MissingDependencyError
from retriever.evaluation.metrics import METRICS

__all__ = ["Comparison", "Test", "compare", "comparison_markdown"]

Test = Literal["t-test", "randomisation"]
RESAMPLES = 9999  # random swaps; p is then at least 1 / 10,000


@dataclass(frozen=True)
class Comparison:
    """a, b: means over queries. better, worse: queries where b scores above, below a. p: two-sided."""

    dataset: str
    split: str
    metric: str
    queries: int
    a: float
    b: float
    better: int
    worse: int
    p: float

    @property
    def difference(self) -> float:
        return self.b - self.a


def compare(
    a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]], *, test: Test = "t-test", seed: int = 0
) -> list[Comparison]:
    """Compare the results of two systems on the data sets that both have, for each of METRICS.

    a, b: results with `per_query`, at most one for each data set and split. Raises CorpusError where they
    have no data set in common, or one of the same name was not the same data.
    """
    a, b = as_list(a, "a", "results, as Report.results"), as_list(b, "b", "results, as Report.results")
    of_b = {(r["dataset"], r["split"]): r for r in b}
    pairs = [(r, of_b[r["dataset"], r["split"]]) for r in a if (r["dataset"], r["split"]) in of_b]
    if not pairs:
        names = [", ".join(r["dataset"] for r in results) or "none" for results in (a, b)]
        raise CorpusError(
            f"the reports share no data set: {names[0]}, and {names[1]}; evaluate the same ones"
        )
    comparisons = []
    for one, other in pairs:
        if one["data"] != other["data"] or one["per_query"].keys() != other["per_query"].keys():
            raise CorpusError(
                f"{one['dataset']} was not the same data in both reports; evaluate both on the same files"
            )
        for metric in METRICS:
            x = np.array([one["per_query"][qid][metric] for qid in one["per_query"]])
            y = np.array([other["per_query"][qid][metric] for qid in one["per_query"]])
            comparisons.append(
                Comparison(
                    dataset=one["dataset"],
                    split=one["split"],
                    metric=metric,
                    queries=len(x),
                    a=float(x.mean()),
                    b=float(y.mean()),
                    better=int((y > x).sum()),
                    worse=int((y < x).sum()),
                    p=_p(x, y, test, seed),
                )
            )
    return comparisons


def _p(x: Any, y: Any, test: Test, seed: int) -> float:
    """Two-sided p of the paired difference. 1 where no query differs; NaN for one query, which shows nothing."""
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingDependencyError("significance tests need scipy; pip install 'latewood[eval]'") from error

    difference = y - x
    if not difference.any():
        return 1.0
    if len(x) < 2:
        return math.nan
    if test == "t-test":
        if np.ptp(difference) == 0:  # no spread: t is infinite, which scipy warns of
            return 0.0
        return float(stats.ttest_rel(x, y).pvalue)
    if test == "randomisation":
        found = stats.permutation_test(
            (difference,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, 10_000_000 // len(x)),
            rng=np.random.default_rng(seed),
        )
        return float(found.pvalue)
    raise ArgumentError(f"test={test!r}; pass t-test or randomisation")


def comparison_markdown(comparisons: Sequence[Comparison], a: str, b: str, test: Test) -> str:
    """A Markdown table; a and b name the two sides."""
    lines = [
        f"A: {a}",
        f"B: {b}",
        "",
        "| data set | metric | A | B | B - A | queries | better | worse | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        name = c.dataset if c.split == "test" else f"{c.dataset} ({c.split})"
        p = "<0.0001" if c.p < 0.0001 else f"{c.p:.4f}"
        lines.append(
            f"| {name} | {c.metric} | {c.a:.4f} | {c.b:.4f} | {c.difference:+.4f} | {c.queries:,} "
            f"| {c.better:,} | {c.worse:,} | {p} |"
        )
    what = "paired t-test" if test == "t-test" else f"paired randomisation test, {RESAMPLES:,} swaps"
    lines += ["", f"p: {what}, two-sided, of {len(comparisons)} comparisons, not corrected for their number."]
    return "\n".join(lines) + "\n"
