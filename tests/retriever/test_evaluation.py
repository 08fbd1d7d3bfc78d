"""Data sets, metrics and run files, against plain-Python oracles and trec_eval itself."""

import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.errors import ArgumentError, CorpusError
from retriever.evaluation import (
    METRICS,
    EvaluationSet,
    evaluate,
    evaluate_queries,
    query_length,
    read_run,
    trec_order,
    write_run,
)
from retriever.hits import Hit

DATA = Path(__file__).parent.parent / "data"
FROZEN_MEANS = {"nDCG@10": "0.2000", "R@100": "0.7892", "RR@10": "0.3519"}


def test_what_pylate_returns_is_a_run() -> None:
    qrels = {"q": {"a": 1, "b": 2}}
    found = [{"id": "b", "score": 3.5}, {"id": "c", "score": 3.0}, {"id": "a", "score": 1.0}]
    assert evaluate(qrels, {"q": found}) == evaluate(qrels, {"q": {"b": 3.5, "c": 3.0, "a": 1.0}})
    with pytest.raises(ArgumentError, match=r"run\['q'\] has document 'b' twice"):
        evaluate(qrels, {"q": [*found, found[0]]})
    with pytest.raises(ArgumentError, match=r"run\['q'\]\['b'\] is 'x'; pass a number"):
        evaluate(qrels, {"q": [{"id": "b", "score": "x"}]})


# Data sets


def beir_folder(root: Path) -> Path:
    (root / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": f"title {i}", "text": f"text {i}"} for i in range(4)]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(4)]
    for name, records in (("corpus", corpus), ("queries", queries)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    header = "query-id\tcorpus-id\tscore\n"
    (root / "qrels" / "test.tsv").write_text(header + "q2\td1\t2\nq0\td0\t1\nq0\tgone\t1\nq0\td3\t0\n")
    (root / "qrels" / "dev.tsv").write_text(header + "q1\td1\t1\n")
    return root


def test_a_split_has_its_queries_and_judgements(tmp_path: Path) -> None:
    data = EvaluationSet.load(beir_folder(tmp_path / "mine"))
    assert (data.name, data.split, data.query_length, data.drops_self_hits) == ("mine", "test", 32, False)
    assert data.queries == {"q0": "query 0", "q2": "query 2"}
    assert data.qrels == {"q2": {"d1": 2}, "q0": {"d0": 1, "gone": 1, "d3": 0}}
    passages = list(data.passages())
    assert passages[1] == {"doc_id": "d1", "text": "title 1 text 1", "metadata": {}}
    assert data.unknown_documents(p["doc_id"] for p in passages) == 1
    assert EvaluationSet.load(tmp_path / "mine", "dev").queries == {"q1": "query 1"}


def test_qrels_without_header_and_with_spaces_in_ids(tmp_path: Path) -> None:
    root = beir_folder(tmp_path / "mine")
    (root / "qrels" / "test.tsv").write_bytes(b"q0\tmy doc\t1\r\n\r\nq2\td1\t0\r\n")
    assert EvaluationSet.load(root).qrels == {"q0": {"my doc": 1}, "q2": {"d1": 0}}


JUDGED = {"q0": {"d0": 1, "d3": 0}, "q2": {"d1": 2}}


@pytest.mark.parametrize(
    "lines",
    [
        ["query-id\tcorpus-id\tscore", "q0\td0\t1", "q0\td3\t0", "q2\td1\t2"],
        ["q0\td0\t1", "q0\td3\t0", "q2\td1\t2"],
        ["\ufeffq0\td0\t1\r", "", "q0\td3\t0\r", "q2\td1\t2\r"],
        ["score\tcorpus_id\tquery_id", "1\td0\tq0", "0\td3\tq0", "2\td1\tq2"],
        ["#Doc-ID\tRelevance\tQID\tnote", "d0\t1\tq0\tx", "d3\t0\tq0\t", "d1\t2\tq2\ty"],
        ["q0 0 d0 1", "q0 0 d3 0", "q2  0  d1  2"],
        ["q0\tQ0\td0\t1", "q0\tQ0\td3\t0", "q2\tQ0\td1\t2"],
        ["q0 \td0  \t1", " q0\td3\t0", "q2\td1\t2 "],
    ],
)
@pytest.mark.parametrize("gzipped", [False, True])
def test_the_first_line_of_qrels_is_read_for_what_it_is(
    tmp_path: Path, lines: list[str], gzipped: bool
) -> None:
    root = beir_folder(tmp_path / "mine")
    plain = root / "qrels" / "test.tsv"
    plain.write_text("\n".join(lines), encoding="utf-8")
    if gzipped:
        for path in (plain, root / "corpus.jsonl", root / "queries.jsonl"):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    data = EvaluationSet.load(root)
    assert data.qrels == JUDGED
    assert data.queries == {"q0": "query 0", "q2": "query 2"}
    assert len(data.digest()) == 32
    assert EvaluationSet.load(root, "dev").digest() != data.digest()


def test_a_data_set_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beir_folder(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    data = EvaluationSet.load("mine")
    digest = data.digest()
    monkeypatch.chdir("/")
    assert (len(list(data.passages())), data.digest()) == (4, digest)


def test_numbers_in_another_order_are_read_by_their_header(tmp_path: Path) -> None:
    root = tmp_path / "numbers"
    (root / "qrels").mkdir(parents=True)
    (root / "corpus.jsonl").write_text('{"_id": 7, "text": "x"}\n')
    (root / "queries.jsonl").write_text('{"_id": 3, "text": "x"}\n')
    (root / "qrels" / "test.tsv").write_text("corpus-id\tscore\tquery-id\n7\t1\t3\n")
    assert EvaluationSet.load(root).qrels == {"3": {"7": 1}}


def test_what_contradicts_itself_is_refused_with_its_lines(tmp_path: Path) -> None:
    root = beir_folder(tmp_path / "mine")
    header, row = "query-id\tcorpus-id\tscore\n", '{{"_id": "{}", "text": "{}"}}\n'
    corpus = (root / "corpus.jsonl").read_text()
    for file, content, message in (
        ("qrels/test.tsv", f"{header}q0\td0\t1\nq2\td1\t1\nq0\td0\t2\n", r"tsv:4 gives .*'d0'.*'q0'.*line 2"),
        ("qrels/test.tsv", "topic\tnumber\tgrade\nq0\td0\t1\n", "tsv:1 is .*no header and no judgement"),
        ("qrels/test.tsv", "1\tq0\td0\n", "tsv:1 is .*no header and no judgement"),
        ("qrels/test.tsv", f"{header}q0\t\t1\n", "tsv:2 is"),
        ("qrels/test.tsv", f"{header}q0\td0\t1_0\n", "tsv:2 is"),
        ("qrels/test.tsv", f"{header}q0\tx\t1\nq2\ty\t1\n", "judges no document of corpus.jsonl, first 'x'"),
        (
            "corpus.jsonl",
            corpus + "\n" + row.format("d1", "other"),
            r"corpus.jsonl:6 has the id 'd1' of .*:2; keep",
        ),
        (
            "corpus.jsonl",
            corpus + row.format("d9 ", "x"),
            r"corpus.jsonl:5 has the id 'd9 ', which begins or ends",
        ),
        ("corpus.jsonl", "\n", "corpus.jsonl holds no document"),
        ("queries.jsonl", row.format("q0", "a") * 2, r"queries.jsonl:2 has the id 'q0' of .*:1; keep one"),
    ):
        kept = (root / file).read_text()
        (root / file).write_text(content)
        with pytest.raises(CorpusError, match=message):
            EvaluationSet.load(root)
        (root / file).write_text(kept)
    (root / "qrels" / "cut.tsv.gz").write_bytes(gzip.compress(b"q0\td0\t1\n" * 99)[:-9])
    with pytest.raises(CorpusError, match=r"cannot read .*cut.tsv.gz"):
        EvaluationSet.load(root, "cut")


def test_what_is_odd_in_a_data_set_is_counted(tmp_path: Path) -> None:
    root = beir_folder(tmp_path / "mine")
    rows = ["q0\td0\t1", "q0\tgone\t1", "q0\tlost\t0", "q0\td0\t1", "q2\td1\t0"]
    (root / "qrels" / "test.tsv").write_text("\n".join(rows))
    remarks = EvaluationSet.load(root).remarks
    assert [remark.removeprefix(f"{root}/qrels/test.tsv: ") for remark in remarks] == [
        "1 judgements stand there twice",
        "2 of 4 judged documents are not in corpus.jsonl",
        "1 queries have no relevant document and score 0",
        "2 of 4 queries have no judgement and are left out",
    ]


def test_broken_data_sets_are_refused(tmp_path: Path) -> None:
    root = beir_folder(tmp_path / "mine")
    with pytest.raises(CorpusError, match="is no BEIR folder"):
        EvaluationSet.load(tmp_path)
    with pytest.raises(CorpusError, match=r"no split 'train'; the splits of qrels/\*.tsv are: dev, test"):
        EvaluationSet.load(root, "train")
    test = root / "qrels" / "test.tsv"
    for content, message in (
        ("query-id\tcorpus-id\tscore\nq0 d0 1\n", "test.tsv:2 is 'q0 d0 1'; write"),
        ("query-id\tcorpus-id\tscore\nq0\td0\thigh\n", "test.tsv:2 is"),
        ("query-id\tcorpus-id\tscore\n", "judges nothing"),
        ("q0\td0\t1\nq9\td0\t1\n", "judges 1 queries that queries.jsonl lacks, first 'q9'"),
    ):
        test.write_text(content)
        with pytest.raises(CorpusError, match=message):
            EvaluationSet.load(root)
    (root / "queries.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"has no queries.jsonl"):
        EvaluationSet.load(root)


def test_beir_conventions(tmp_path: Path) -> None:
    names = ("ArguAna", "climate_fever", "scifact", "scidocs", "trec-covid", "nfcorpus", "nano-arguana")
    assert [query_length(name) for name in names] == [64, 64, 48, 48, 48, 32, 64]
    root = beir_folder(tmp_path / "mine")
    run = {"q0": {"q0": 3.0, "d0": 2.0}, "q2": {"d1": 1.0}}
    for name in ("arguana", "Quora", "nano-quora"):
        data = EvaluationSet.load(root, name=name)
        assert data.drop_self_hits(run) == {"q0": {"d0": 2.0}, "q2": {"d1": 1.0}}
        assert list(data.drop_self_hits({"q0": ["q0", "d0"]})["q0"]) == ["d0"]
    assert EvaluationSet.load(root).drop_self_hits(run) == run


# Metrics


def single(value: float) -> float:
    """As a C float, which trec_eval keeps scores in."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def oracle(judged: dict[str, int], hits: dict[str, float]) -> dict[str, float]:
    ranking = sorted(hits, key=lambda doc: (single(hits[doc]), doc), reverse=True)
    gains = [max(judged.get(doc, 0), 0) for doc in ranking]
    ideal = sorted((g for g in judged.values() if g > 0), reverse=True)

    def dcg(values: list[int]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(values[:10], start=1))

    return {
        "nDCG@10": dcg(gains) / dcg(ideal) if ideal else 0.0,
        "R@100": sum(g > 0 for g in gains[:100]) / len(ideal) if ideal else 0.0,
        "RR@10": next((1 / rank for rank, g in enumerate(gains[:10], start=1) if g > 0), 0.0),
    }


documents = st.sampled_from([f"d{i}" for i in range(12)] + ["D0", "é", "z", "\U0001f600", "\uffee"])
scores = st.sampled_from([0.0, -1.0, 1.0, 1.0 + 1e-12, 1.0 + 1e-6, 2.5, -3e38, 1e300]) | st.floats(-9, 9)
query_ids = st.sampled_from(["q1", "q2", "q3", "q4"])
all_qrels = st.dictionaries(
    query_ids, st.dictionaries(documents, st.integers(0, 3), min_size=1), min_size=1, max_size=4
)
all_runs = st.dictionaries(query_ids, st.dictionaries(documents, scores), max_size=4)


@pytest.mark.slow
@settings(deadline=None)
@given(qrels=all_qrels, run=all_runs)
def test_metrics_equal_the_oracle(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> None:
    wanted = {qid: oracle(judged, run.get(qid, {})) for qid, judged in qrels.items()}
    got = evaluate_queries(qrels, run)
    assert list(got) == list(qrels)
    for qid, values in wanted.items():
        assert got[qid] == pytest.approx(values, abs=1e-9)
    means = {name: sum(v[name] for v in wanted.values()) / len(wanted) for name in METRICS}
    assert evaluate(qrels, run) == pytest.approx(means, abs=1e-9)


@pytest.mark.slow
@settings(deadline=None)
@given(qrels=all_qrels, run=all_runs)
def test_documents_are_ordered_as_trec_eval_does(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> None:
    judge = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100", "recip_rank"})
    got = evaluate_queries(qrels, run)
    for qid, values in judge.evaluate({q: hits for q, hits in run.items() if hits}).items():
        assert got[qid]["nDCG@10"] == pytest.approx(values["ndcg_cut_10"], abs=1e-9)
        assert got[qid]["R@100"] == pytest.approx(values["recall_100"], abs=1e-9)
        if values["recip_rank"] >= 0.1:
            assert got[qid]["RR@10"] == pytest.approx(values["recip_rank"], abs=1e-9)


def frozen() -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """A run of eight queries most of whose scores are tied, some only in float32; q9 is judged, not run."""
    qrels: dict[str, dict[str, int]] = {}
    for line in (DATA / "frozen.qrels").read_text().splitlines():
        qid, _, doc, relevance = line.split()
        qrels.setdefault(qid, {})[doc] = int(relevance)
    return qrels, read_run(DATA / "frozen.run")


def test_a_frozen_run_scores_what_trec_eval_gives_to_the_digit() -> None:
    qrels, run = frozen()
    assert any(len(set(hits.values())) < len(hits) / 10 for hits in run.values())  # ties
    judge = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100", "recip_rank"})
    wanted = judge.evaluate(run)
    got = evaluate_queries(qrels, run)
    assert got.pop("q9") == dict.fromkeys(METRICS, 0.0)
    for qid, values in wanted.items():
        reciprocal = values["recip_rank"] if values["recip_rank"] >= 0.1 else 0.0
        trec = {"nDCG@10": values["ndcg_cut_10"], "R@100": values["recall_100"], "RR@10": reciprocal}
        assert got[qid] == pytest.approx(trec, abs=1e-12)
    # trec_eval -c prints four digits; these are its, kept so that a change of library shows.
    means = {name: f"{value:.4f}" for name, value in evaluate(qrels, run).items()}
    assert means == FROZEN_MEANS


def test_ties_of_the_frozen_run_decide_its_figures() -> None:
    """Another order within ties would show: with the smaller id first every mean is another."""
    qrels, run = frozen()
    turned = {
        qid: {doc: -rank for rank, doc in enumerate(sorted(hits, key=lambda d: (-single(hits[d]), d)))}
        for qid, hits in run.items()
    }
    assert all(abs(evaluate(qrels, turned)[name] - evaluate(qrels, run)[name]) > 1e-3 for name in METRICS)


def test_the_names_and_the_cut_offs() -> None:
    assert METRICS == ("nDCG@10", "R@100", "RR@10")
    run = {"q": {f"d{i:03}": 1000.0 - i for i in range(150)}}
    assert evaluate({"q": {"d009": 1}}, run) == pytest.approx(
        {"nDCG@10": 1 / math.log2(11), "R@100": 1.0, "RR@10": 0.1}
    )
    assert evaluate({"q": {"d010": 1}}, run) == {"nDCG@10": 0.0, "R@100": 1.0, "RR@10": 0.0}
    assert evaluate({"q": {"d100": 1}}, run) == {"nDCG@10": 0.0, "R@100": 0.0, "RR@10": 0.0}


def test_queries_without_hits_count_and_queries_without_judgements_do_not() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {"a": 0}}
    run = {"q1": {"a": 1.0}, "q2": {}, "q9": {"a": 1.0}}
    assert evaluate(qrels, run) == {"nDCG@10": 0.25, "R@100": 0.25, "RR@10": 0.25}
    with pytest.raises(ArgumentError, match="qrels holds no query"):
        evaluate({}, run)


def test_a_run_may_be_lists_of_doc_ids_or_of_hits() -> None:
    qrels = {"q1": {"b": 1}, "q2": {"a": 2, "c": 1}}
    wanted = evaluate(qrels, {"q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 0.5, "a": 0.25}})
    lists = {"q1": ["a", "b"], "q2": ("c", "a")}
    hits = {qid: [Hit(i, 9.0 - i, doc, None, {}) for i, doc in enumerate(ids)] for qid, ids in lists.items()}
    assert wanted["RR@10"] == 0.75
    assert evaluate(qrels, lists) == evaluate(qrels, hits) == wanted
    assert trec_order(lists["q1"]) == trec_order(hits["q1"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("qrels", "run", "message"),
    [
        ({"1": {"a": 1}}, {1: {"a": 1.0}}, r"query ids of the run\[0\] is 1 \(int\); pass strings"),
        ({"1": {"7": 1}}, {"1": {7: 1.0}}, r"doc_ids of run\['1'\]\[0\] is 7 \(int\); pass strings"),
        ({1: {"a": 1}}, {"1": {"a": 1.0}}, r"query ids of qrels\[0\] is 1"),
        ({"1": {7: 1}}, {"1": {"7": 1.0}}, r"doc_ids of qrels\['1'\]\[0\] is 7"),
        ({"1": {"a": 1.5}}, {}, r"qrels\['1'\]\['a'\]=1.5 is float; pass an integer"),
        ({"1": ["a"]}, {}, "qrels is no mapping of mappings"),
        ({"1": {"a": 1}}, [["a"]], "run is list; pass {query id: {doc_id: score}}"),
        ({"1": {"a": 1}}, {"1": "a"}, r"run\['1'\] is the string 'a'; pass a list of doc_ids or hits"),
        ({"1": {"a": 1}}, {"1": [("a", 1.0)]}, r"run\['1'\]\[0\] is \('a', 1.0\) \(tuple\); pass strings"),
        ({"1": {"a": 1}}, {"1": ["a", "b", "a"]}, r"run\['1'\] has document 'a' twice"),
        ({"1": {"a": 1}}, {"1": {"a": None}}, r"run\['1'\]\['a'\] is None; pass a number"),
    ],
)
def test_what_is_no_run_is_refused_and_not_scored_as_0(qrels: Any, run: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        evaluate(qrels, run)


def test_ties_go_to_the_greater_id_and_nan_is_refused() -> None:
    assert trec_order({"a": 1.0, "b": 1.0 + 1e-12, "B": 1.0, "c": 2.0, "d": -1.0}) == [
        "c",
        "b",
        "a",
        "B",
        "d",
    ]
    with pytest.raises(ArgumentError, match="score of document 'a' is NaN"):
        trec_order({"a": math.nan})


# Run files


def test_a_run_file_is_in_trec_form_and_comes_back(tmp_path: Path) -> None:
    run = {"q1": {"a": 1.0, "b": 1.0, "c": 1 / 3}, "q2": {"é:1-2#2": -2.5e-8}}
    file = tmp_path / "run.txt"
    write_run(file, run)
    assert file.read_text(encoding="utf-8").splitlines() == [
        "q1 Q0 b 1 1.0 latewood",
        "q1 Q0 a 2 1.0 latewood",
        "q1 Q0 c 3 0.3333333333333333 latewood",
        "q2 Q0 é:1-2#2 1 -2.5e-08 latewood",
    ]
    assert read_run(file) == run
    write_run(file, {"q": ["b", "a"]})
    assert trec_order(read_run(file)["q"]) == ["b", "a"]


def test_ids_with_white_space_are_refused_before_writing(tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    for run, tag in (
        ({"q": {"a b": 1.0}}, "t"),
        ({"q\t": {"a": 1.0}}, "t"),
        ({"q": {"": 1.0}}, "t"),
        ({"q": {"a\u00a0b": 1.0}}, "t"),
        ({"q": {"a": 1.0}}, "my tag"),
    ):
        with pytest.raises(
            ArgumentError, match="is empty or holds white space, which a TREC run cannot hold"
        ):
            write_run(file, run, tag)
    assert not file.exists()
    with pytest.raises(ArgumentError, match="cannot write"):
        write_run(tmp_path / "none" / "run.txt", {})


def test_broken_run_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    for content, message in (
        ("q1 Q0 a 1 1.0 t\nq1 a 1.0\n", "run.txt:2 is 'q1 a 1.0'; write query-id Q0"),
        ("q1 Q0 a 1 high t\n", "run.txt:1 is"),
        ("q1 Q0 a 1 1.0 t\n\nq1 Q0 a 2 0.5 t\n", "run.txt:3 repeats document 'a' of query 'q1'"),
    ):
        file.write_text(content)
        with pytest.raises(CorpusError, match=message):
            read_run(file)
    with pytest.raises(CorpusError, match="cannot read"):
        read_run(tmp_path / "none.txt")
