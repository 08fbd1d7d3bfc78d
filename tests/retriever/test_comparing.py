"""Comparing reports: the tests against scipy and against all swaps counted by hand."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from encoder.errors import ArgumentError, CorpusError
from retriever.cli import app
from retriever.evaluation import METRICS, Report, compare
from retriever.evaluation.comparing import comparison_markdown


def result(values: list[float], *, dataset: str = "nq", system: str = "latewood", data: str = "x") -> Any:
    per_query = {f"q{i}": dict.fromkeys(METRICS, value) for i, value in enumerate(values)}
    about = {"dataset": dataset, "split": "test", "system": system, "data": data, "per_query": per_query}
    return about | {"ms_per_query": 2.0, "index_bytes": 10, "documents": 5} | dict.fromkeys(METRICS, 0.5)


A = [0.1, 0.5, 0.3, 0.9, 0.0, 0.4, 0.7, 0.2]
B = [0.3, 0.6, 0.3, 1.0, 0.2, 0.3, 0.9, 0.5]


def test_the_t_test_is_scipys_and_the_counts_are_right() -> None:
    found = compare([result(A)], [result(B)])
    assert [c.metric for c in found] == list(METRICS)
    c = found[0]
    assert c.p == pytest.approx(stats.ttest_rel(A, B).pvalue)
    assert (c.better, c.worse, c.queries) == (6, 1, 8)
    assert (c.a, c.b, c.difference) == pytest.approx((np.mean(A), np.mean(B), np.mean(B) - np.mean(A)))
    back = compare([result(B)], [result(A)])[0]
    assert (back.p, back.better, back.difference) == (pytest.approx(c.p), 1, pytest.approx(-c.difference))


def test_the_randomisation_test_counts_all_swaps_of_a_few_queries() -> None:
    difference = np.subtract(B, A)
    means = [abs(np.mean(difference * signs)) for signs in itertools.product((1, -1), repeat=len(A))]
    exact = np.mean(np.array(means) >= abs(difference.mean()) - 1e-12)
    assert compare([result(A)], [result(B)], test="randomisation")[0].p == pytest.approx(exact)


@pytest.mark.slow
def test_the_randomisation_test_agrees_with_the_t_test_on_many_queries() -> None:
    random = np.random.default_rng(0)
    a = random.random(100)
    b = np.clip(a + random.normal(0.01, 0.1, 100), 0, 1)
    one, other = (
        compare([result(list(a))], [result(list(b))], test=t)[0].p for t in ("t-test", "randomisation")
    )
    assert one == pytest.approx(other, abs=0.02)
    assert compare([result(list(a))], [result(list(b))], test="randomisation")[0].p == other  # seeded


@pytest.mark.parametrize("test", ["t-test", "randomisation"])
def test_equal_runs_and_constant_differences(test: Any) -> None:
    assert compare([result(A)], [result(A)], test=test)[0].p == 1.0
    shifted = [value + 0.25 for value in (0.0, 0.25, 0.5, 0.25, 0.0, 0.5, 0.25, 0.0, 0.5, 0.25, 0.0, 0.5)]
    plain = [value - 0.25 for value in shifted]
    assert compare([result(plain)], [result(shifted)], test=test)[0].p < 0.001
    assert np.isnan(compare([result([0.1])], [result([0.2])], test=test)[0].p)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(CorpusError, match="share no data set: nq, and fiqa"):
        compare([result(A)], [result(B, dataset="fiqa")])
    with pytest.raises(CorpusError, match="nq was not the same data"):
        compare([result(A)], [result(B, data="y")])
    with pytest.raises(ArgumentError, match="test='sign'"):
        compare([result(A)], [result(B)], test="sign")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    Report([result(A), result(B, system="bm25")]).save(first)
    Report([result(B), result(A, system="latewood-flat")]).save(second)

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["compare", *map(str, arguments)])

    done = run(first, f"{second}:latewood", "--out", tmp_path / "c.md", "--plot", tmp_path / "c.png")
    assert done.exit_code == 0, done.output
    assert "| nq | nDCG@10 | 0.3875 | 0.5125 | +0.1250 | 8 | 6 | 1 |" in done.output
    assert (tmp_path / "c.md").read_text() == done.output
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads(run(first, f"{first}:bm25", "--json", "--test", "randomisation").stdout)
    assert rows["b"] == "a.json, bm25"
    assert rows["comparisons"][0]["difference"] == pytest.approx(0.125)
    for arguments, message in (
        ([first, second], "b.json holds latewood, latewood-flat; pass"),
        ([first, f"{first}:dense"], "has no system 'dense'; it has latewood, bm25"),
        ([first, tmp_path / "none.json"], "cannot read"),
        ([first, first, "--test", "sign"], "test='sign'; pass one of t-test, randomisation"),
    ):
        assert message in str(run(*arguments).exception)


def test_results_may_come_from_a_generator_and_a_report_is_none() -> None:
    assert compare((result(A) for _ in "a"), (result(B) for _ in "b")) == compare([result(A)], [result(B)])
    with pytest.raises(ArgumentError, match=r"a is Report; pass a list of results, as Report.results"):
        compare(Report([result(A)]), [result(B)])  # type: ignore[arg-type]


def test_markdown_says_what_p_is() -> None:
    text = comparison_markdown(compare([result(A)], [result(B)]), "one", "two", "t-test")
    assert text.startswith("A: one\nB: two\n")
    assert text.endswith("p: paired t-test, two-sided, of 3 comparisons, not corrected for their number.\n")
