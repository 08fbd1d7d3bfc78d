"""Evaluating data sets: one encoder, resumed reports, baselines, tables and plots, on a tiny collection."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from typer.testing import CliRunner

from encoder import Encoder
from encoder.errors import ArgumentError, CorpusError, MissingDependencyError
from indexing import Index
from indexing.reading.corpus import read_source
from retriever.cli import app
from retriever.evaluation import (
    METRICS,
    Bm25,
    Dense,
    EvaluationSet,
    LateInteraction,
    Outputs,
    Report,
    evaluate,
    evaluate_all,
    evaluate_folder,
    evaluate_system,
    read_run,
    write_run,
)
from retriever.evaluation.datasets import beir_folders
from retriever.evaluation.plots import plot
from retriever.evaluation.results import averages, markdown, side_by_side
from retriever.searcher import Searcher

DOCUMENTS = {
    "d1": "The heart pumps blood through the body.",
    "d2": "Interest rates were raised by the central bank.",
    "d3": "A compiler translates source code into machine code.",
    "d4": "Volcanoes erupt when magma reaches the surface.",
}
QUERIES = {"q1": "how does blood move", "q2": "bank interest rates", "q3": "compiler of source code"}


def collection(root: Path, documents: dict[str, str] = DOCUMENTS, queries: dict[str, str] = QUERIES) -> Path:
    (root / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items()]
        (root / f"{name}.jsonl").write_text("".join(lines))
    rows = "".join(f"{qid}\td{i}\t1\n" for i, qid in enumerate(queries, 1))
    (root / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return root


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return Encoder.load()


@pytest.fixture
def loaded(bundled: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line takes the encoder that is loaded already."""
    monkeypatch.setattr(Encoder, "load", lambda *arguments, **options: bundled)


def cli(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_folder_is_evaluated_from_python(bundled: Encoder, tmp_path: Path) -> None:
    result = evaluate_folder(bundled, collection(tmp_path / "tiny"), run_file=tmp_path / "run.trec")
    qrels = EvaluationSet.load(tmp_path / "tiny").qrels
    assert evaluate(qrels, read_run(tmp_path / "run.trec")) == {name: result[name] for name in METRICS}
    assert result["R@100"] == 1.0
    for name in METRICS:
        assert result[name] == pytest.approx(np.mean([q[name] for q in result["per_query"].values()]))
    assert result["fingerprint"] == bundled.fingerprint
    assert result["settings"]["document_length"] == bundled.document_length
    assert result["environment"]["versions"]["numpy"] == np.__version__
    assert {"index_seconds", "search_seconds", "ms_per_query", "index_bytes"} <= result.keys()
    with pytest.raises(CorpusError, match="is no BEIR folder"):
        evaluate_folder(bundled, tmp_path)


@pytest.mark.slow
def test_beirs_query_length_is_used_and_the_weights_are_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expanding = Encoder.load(query_length=32)
    expanding.tokenizer.settings = replace(expanding.tokenizer.settings, do_query_expansion=True)
    loads = []
    monkeypatch.setattr(Encoder, "load", lambda *a, **k: loads.append(a) or expanding)
    encoded = []
    encode = Encoder.encode_queries
    monkeypatch.setattr(
        Encoder, "encode_queries", lambda self, texts: encoded.append(encode(self, texts)) or encoded[-1]
    )
    for name in ("arguana", "scifact", "other"):
        collection(tmp_path / name)
    result = cli("evaluate", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    lengths = {r["dataset"]: r["settings"]["query_length"] for r in json.loads(result.stdout)}
    assert lengths == {"arguana": 64, "other": 32, "scifact": 48}
    assert {length for e in encoded for length in e.lengths.tolist()} == {64, 32, 48}
    assert len(loads) == 1


def test_without_expansion_a_query_is_not_cut_shorter_than_the_model_reads(bundled: Encoder) -> None:
    data = EvaluationSet("arguana", Path(), "test", {}, {})
    assert not bundled.tokenizer.settings.do_query_expansion
    assert LateInteraction(bundled).encoder_for(data) is bundled
    short = LateInteraction(bundled.with_query_length(16)).encoder_for(data)
    assert short.query_length == 64


@pytest.mark.slow
def test_a_query_length_of_its_own_shares_the_weights(bundled: Encoder) -> None:
    text = "a question of very many words " * 20
    other = bundled.with_query_length(48)
    assert other.model is bundled.model
    assert (other.query_length, bundled.query_length) == (48, Encoder.load().query_length)
    loaded = Encoder.load(query_length=48)
    np.testing.assert_array_equal(other.encode_queries([text]).vectors, loaded.encode_queries([text]).vectors)
    assert (other.fingerprint, other.load_arguments) == (loaded.fingerprint, loaded.load_arguments)
    for length in (1, 1 << 20):
        with pytest.raises(ArgumentError, match=f"query_length={length}"):
            bundled.with_query_length(length)


@pytest.mark.slow
def test_a_query_does_not_find_itself_in_arguana(bundled: Encoder, tmp_path: Path) -> None:
    documents = {**DOCUMENTS, **QUERIES}  # the queries are documents too
    run = tmp_path / "run.trec"
    for name, itself in (("arguana", False), ("other", True)):
        evaluate_folder(bundled, collection(tmp_path / name, documents), k=10, run_file=run)
        assert any(qid in hits for qid, hits in read_run(run).items()) == itself
    for system in (Bm25(), Dense(bundled, 2)):
        evaluate_system(system, EvaluationSet.load(tmp_path / "arguana"), run_file=run)
        found = read_run(run)
        assert not any(qid in hits for qid, hits in found.items())
        assert system.name == "bm25" or [len(hits) for hits in found.values()] == [2, 2, 2]


def test_bm25_is_the_formula(tmp_path: Path) -> None:
    """Lucene's BM25 by hand, on words that neither the stemmer nor the stop list touches."""
    documents = {"d1": "heart blood heart", "d2": "blood bank", "d3": "code code code code"}
    data = EvaluationSet.load(collection(tmp_path / "t", documents, {"q": "heart"}))
    run, figures = Bm25().run(data)
    norm = 0.9 * (1 - 0.4 + 0.4 * 3 / 3)  # the document has three words, as the mean has
    idf = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    assert run == {"q": {"d1": pytest.approx(idf * 2 / (2 + norm), rel=1e-5)}}
    assert figures["documents"] == 3


def test_dense_is_the_cosine_of_mean_token_vectors(bundled: Encoder, tmp_path: Path) -> None:
    data = EvaluationSet.load(collection(tmp_path / "tiny", {**DOCUMENTS, "d5": ""}))
    run, figures = Dense(bundled).run(data)

    def unit(vectors: Any) -> Any:
        mean = vectors.mean(axis=0)
        return mean / np.linalg.norm(mean)

    document = unit(bundled.encode_documents([DOCUMENTS["d2"]])[0])
    query = unit(bundled.encode_queries([QUERIES["q2"]])[0])
    assert run["q2"]["d2"] == pytest.approx(float(document @ query), abs=1e-5)
    assert run["q2"].keys() == {"d1", "d2", "d3", "d4", "d5"}
    assert figures["index_bytes"] == 5 * bundled.dim * faiss.IndexFlatIP(1).code_size


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("package", ["bm25s", "Stemmer"])
def test_a_baseline_that_cannot_run_is_told_before_any_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "retriever.evaluation.baselines.find_spec", lambda name: None if name == package else name
    )
    monkeypatch.setattr("encoder.Encoder.load", lambda *_, **__: pytest.fail("a model was loaded"))
    done = CliRunner().invoke(app, ["evaluate", str(collection(tmp_path / "c")), "--baseline", "bm25"])
    assert isinstance(done.exception, MissingDependencyError)
    assert f"the BM25 baseline needs {package}; pip install 'latewood[eval]'" in str(done.exception)


@pytest.mark.slow
def test_several_sets_with_baselines_are_resumed(tmp_path: Path) -> None:
    collection(tmp_path / "sets" / "one")
    collection(tmp_path / "sets" / "two", {**DOCUMENTS, "d5": "Cats purr."})
    (tmp_path / "sets" / "notes").mkdir()
    out = tmp_path / "out"
    command = ["evaluate", tmp_path / "sets", "--out", out, "--baseline", "bm25", "--baseline", "dense"]
    first = cli(*command, "--plot", tmp_path / "plot.png")
    assert first.exit_code == 0, first.output
    report = Report.load(out / "report.json")
    assert [(r["dataset"], r["system"]) for r in report.results] == [
        (name, system) for name in ("one", "two") for system in ("latewood", "bm25", "dense")
    ]
    assert (out / "report.md").read_text() == side_by_side(report.results) + "\n" + markdown(report.results)
    assert {path.name for path in (out / "runs").iterdir()} == {
        f"{name}.test.{system}.trec" for name in ("one", "two") for system in ("latewood", "bm25", "dense")
    }
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    times = [r["environment"]["date"] for r in report.results], (out / "report.json").stat().st_mtime_ns

    again = cli(*command)
    assert again.output.count("(from the report)") == 6
    assert (out / "report.json").stat().st_mtime_ns == times[1]

    with (tmp_path / "sets" / "two" / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "d6", "text": "Dogs bark."}\n')
    (out / "runs" / "one.test.bm25.trec").unlink()
    changed = cli(*command)
    assert changed.output.count("(from the report)") == 2  # of six: a run gone, and three with other data
    assert len(Report.load(out / "report.json").results) == 6
    other = cli(*command, "-k", "20")
    assert "(from the report)" not in other.output


@pytest.mark.slow
@pytest.mark.usefixtures("loaded")
def test_a_report_that_was_cut_off_holds_what_was_done(tmp_path: Path) -> None:
    collection(tmp_path / "a")
    collection(tmp_path / "b", {"d1": "one", "d1 x": "two", "d2": "", "d3": ""})
    file = tmp_path / "report.json"
    assert cli("evaluate", tmp_path / "a", "--report", file).exit_code == 0
    result = cli("evaluate", tmp_path / "a", tmp_path / "b", "--report", file)
    assert result.output.count("(from the report)") == 1
    assert [r["dataset"] for r in Report.load(file).results] == ["a", "b"]
    out = cli("evaluate", tmp_path / "b", "--out", tmp_path / "out")
    assert "no run file: doc_id 'd1 x' is empty or holds white space" in out.output
    assert "(from the report)" in cli("evaluate", tmp_path / "b", "--out", tmp_path / "out").output


FILLER = "Nothing of interest was said about the weather. " * 12
LONG = {"d1": f"{FILLER}{DOCUMENTS['d1']} {FILLER}", "d2": DOCUMENTS["d2"], "d3": FILLER + DOCUMENTS["d3"]}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
def test_long_documents_are_ranked_by_their_best_passage(bundled: Encoder, tmp_path: Path, mode: Any) -> None:
    folder = collection(tmp_path / "long", LONG)
    run = tmp_path / "run.trec"
    result = evaluate_folder(bundled, folder, mode=mode, window=48, overlap=8, run_file=run)
    with Index.create(tmp_path / "x", bundled, window=48, overlap=8) as index:
        index.add(EvaluationSet.load(folder).passages())
        assert (result["documents"], result["passages"]) == (len(index), index.n_passages)
        assert index.n_passages > 5 > len(index)
    with Searcher.open(tmp_path / "x", bundled) as searcher:
        expected = searcher.search_many(QUERIES, k=100, mode=mode)
    found = read_run(run)
    for qid, hits in expected.items():
        assert found[qid] == {hit.doc_id: pytest.approx(hit.score, abs=1e-5) for hit in hits}
        assert set(found[qid]) <= LONG.keys()
    assert result["system"] == ("latewood-w48" if mode == "late" else f"latewood-{mode}-w48")
    assert (result["settings"]["window"], result["settings"]["overlap"], result["cut"]) == (48, 8, 0)


def test_systems_from_a_generator_are_measured_on_every_data_set(tmp_path: Path) -> None:
    sets = [EvaluationSet.load(collection(tmp_path / name)) for name in ("a", "b")]
    results = evaluate_all((Bm25(k) for k in (10, 20)), sets)
    assert [(r["dataset"], r["settings"]["k"]) for r in results] == [
        ("a", 10),
        ("a", 20),
        ("b", 10),
        ("b", 20),
    ]


def test_an_index_folder_stays_where_it_was_when_the_process_moves(
    bundled: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    system = LateInteraction(bundled, index_folder=Path("x"))
    monkeypatch.chdir("/")
    assert system.index_folder == tmp_path / "x"


def test_windows_that_cannot_be_are_refused_before_anything_is_read(bundled: Encoder) -> None:
    for options in ({"window": 8193}, {"window": 64, "overlap": 40}, {"overlap": 8}):
        with pytest.raises(ArgumentError, match=r"window=|overlap="):
            evaluate_folder(bundled, "no folder", **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_modes_share_an_index_and_windows_are_of_a_results_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Encoder.load(document_length=64)
    loads: list[Any] = []
    monkeypatch.setattr(Encoder, "load", lambda *a, **k: loads.append(k) or short)
    folder, out = collection(tmp_path / "long", LONG), tmp_path / "out"
    command = ["evaluate", folder, "--out", out, "--mode", "late", "--mode", "hybrid", "--baseline", "bm25"]
    default = json.loads(cli(*command[:2], "--json").stdout)  # the model reads 64
    assert (default["windowed"], default["cut"]) == (2, 0)
    assert (default["settings"]["window"], default["passages"] > 3) == ("auto", True)
    loads.clear()
    plain = cli(*command, "--document-length", 64)
    assert plain.exit_code == 0, plain.output
    assert "2 documents were longer than 64 tokens and were cut" in plain.output
    first = cli(*command, "--window", 64)
    assert first.output.count("(from the report)") == 1  # bm25's
    assert "and were cut" not in first.output
    assert "2 documents were longer and came in windows" in first.output
    names = [r["system"] for r in Report.load(out / "report.json").results]
    assert names == ["latewood", "latewood-hybrid", "bm25", "latewood-w64", "latewood-hybrid-w64"]
    late, hybrid = Report.load(out / "report.json").results[-2:]
    assert late["index_seconds"] == hybrid["index_seconds"] > 0  # built once
    assert late["encoded_tokens"] == hybrid["encoded_tokens"] == late["tokens"]
    assert loads == [{"document_length": 64}] * 2  # a window is as much as need be read
    assert cli(*command, "--window", 64).output.count("(from the report)") == 3
    again = json.loads(cli(*command, "--window", 64, "--overlap", 8, "--json").stdout)
    assert [r["mode"] for r in again["modes"]] == ["hybrid"]
    assert [r["settings"]["overlap"] for r in (again, *again["modes"])] == [
        8,
        8,
    ]  # not the report's of before
    assert [r["system"] for r in again["baselines"]] == ["bm25"]


@pytest.mark.slow
@pytest.mark.usefixtures("loaded")
def test_an_index_that_is_kept_keeps_its_windows(tmp_path: Path) -> None:
    folder = collection(tmp_path / "long", LONG)
    command = ["evaluate", folder, "--index", tmp_path / "x", "--json"]
    first, again = (json.loads(cli(*command, "--window", 32).stdout) for _ in range(2))
    assert first["passages"] == again["passages"] > 3
    assert (first["encoded_tokens"], again["encoded_tokens"]) == (first["tokens"], 0)
    refused = cli(*command, "--window", 64)
    assert isinstance(refused.exception, ArgumentError)
    assert "was made with window=32 and overlap=0, not 64 and 0; pass these" in str(refused.exception)


@pytest.mark.usefixtures("loaded")
def test_an_index_with_documents_that_are_not_of_the_collection_is_refused(
    tmp_path: Path, bundled: Encoder
) -> None:
    folder = collection(tmp_path / "tiny")
    command = ["evaluate", folder, "--index", tmp_path / "x"]
    assert cli(*command).exit_code == 0
    with Index.open(tmp_path / "x", bundled, writable=True) as index:
        index.delete(["d4"])
        index.add([{"doc_id": f"o{i}", "text": text} for i, text in enumerate(QUERIES.values())])
    refused = cli(*command)
    assert isinstance(refused.exception, ArgumentError)
    assert "holds 3 documents that are not in tiny, first 'o0'; pass an --index" in str(refused.exception)
    with Index.open(tmp_path / "x") as index:
        assert len(index) == 6  # nothing was added


@pytest.mark.usefixtures("loaded")
def test_what_is_odd_in_a_data_set_is_said_once_and_kept_with_the_result(tmp_path: Path) -> None:
    folder = collection(tmp_path / "tiny")
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\tgone\t1\n")
    result = cli("evaluate", folder, "--baseline", "bm25", "--json")
    assert result.stderr.count("1 of 4 judged documents are not in corpus.jsonl") == 1
    assert result.stderr.startswith("note: ")
    assert len(json.loads(result.stdout)["remarks"]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("loaded")
def test_a_folder_without_test_is_measured_on_dev(tmp_path: Path) -> None:
    for name in ("a", "b"):
        collection(tmp_path / name)
    qrels = tmp_path / "b" / "qrels"
    (qrels / "test.tsv").rename(qrels / "dev.tsv")
    assert [r["split"] for r in json.loads(cli("evaluate", tmp_path, "--json").stdout)] == ["test", "dev"]


@pytest.mark.slow
@pytest.mark.usefixtures("loaded")
def test_one_set_is_one_object_and_several_are_a_list(tmp_path: Path) -> None:
    for name in ("a", "b"):
        collection(tmp_path / name)
    one = json.loads(cli("evaluate", tmp_path / "a", "--json").stdout)
    assert {*METRICS, "dataset", "queries", "model", "fingerprint", "kind", "bytes_per_token"} <= one.keys()
    assert not {"per_query", "baselines"} & one.keys()
    beside = json.loads(cli("evaluate", tmp_path / "a", "--json", "--baseline", "bm25").stdout)
    assert [r["system"] for r in beside["baselines"]] == ["bm25"]
    both = json.loads(cli("evaluate", tmp_path / "a", tmp_path / "b", "--json").stdout)
    assert [r["dataset"] for r in both] == ["a", "b"]


@pytest.mark.usefixtures("loaded")
def test_mistakes_are_found_before_anything_is_encoded(tmp_path: Path) -> None:
    good, empty = collection(tmp_path / "good"), tmp_path / "empty"
    empty.mkdir()
    bad = collection(tmp_path / "bad")
    (bad / "qrels" / "test.tsv").write_text("")
    twin = collection(tmp_path / "other" / "good")
    report = tmp_path / "r.json"
    report.write_text("{}")
    for arguments, message in (
        ([good, bad], "judges nothing"),
        ([empty], "is no BEIR folder and holds none"),
        ([good, twin], "two data sets are called good"),
        ([good, "nfcorpsu"], "near it: nfcorpus"),
        ([good, tmp_path / "none"], "does not exist"),
        ([good, "--baseline", "splade"], "baseline 'splade' is not known; pass one of bm25, dense"),
        ([good, collection(tmp_path / "more"), "--run", "x"], "--run is of one data set"),
        ([good, tmp_path / "more", "--write-run", "x"], "--write-run is of one data set"),
        ([good, "--run", tmp_path / "no.trec"], "no.trec: No such file or directory; pass a run file"),
        ([good, "--run", "a/x.trec", "--run", "b/x.trec"], "two runs are called x"),
        ([good, "--run", "x.trec", "--write-run", "y.trec"], "pass --mode late"),
        ([good, "--report", report], "is no report of format 1"),
        ([good, "--report", report, "--out", tmp_path], "pass --out or --report, not both"),
    ):
        result = cli("evaluate", *arguments)
        assert result.exit_code != 0
        assert message in str(result.exception).replace("\n", " "), result.exception


def test_folders_of_folders(tmp_path: Path) -> None:
    for name in ("b", "a"):
        collection(tmp_path / name)
    (tmp_path / "train").mkdir()
    assert beir_folders(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert beir_folders(tmp_path / "a") == [tmp_path / "a"]
    assert beir_folders(tmp_path / "train") == []


def result(dataset: str, system: str, value: float) -> dict[str, Any]:
    about = {"dataset": dataset, "system": system, "split": "test", "queries": 2, "documents": 10}
    times = {"ms_per_query": 1.0, "index_bytes": 1000, "index_seconds": 1.0, "settings": {"k": 100}}
    machine = {"machine": {"cpu": "a CPU", "threads": 1}, "versions": {"numpy": "2"}, "date": "2026-11-24T00"}
    weights = {"model": "m", "fingerprint": "0123456789abcdef", "environment": machine}
    return dict.fromkeys(METRICS, value) | about | times | weights


def test_a_mean_counts_cqadupstack_once() -> None:
    results = [
        result("cqadupstack-unix", "s", 0.2),
        result("cqadupstack-tex", "s", 0.4),
        result("nq", "s", 0.7),
    ]
    assert averages(results)["nDCG@10"] == pytest.approx((0.3 + 0.7) / 2)
    lines = markdown(results).splitlines()
    assert lines[2].startswith("| cqadupstack-unix | s | 0.2000 | 0.2000 | 0.2000 | 1.0 |")
    assert "| **0.5000** |" in lines[5]
    assert lines[7] == "- s: model m (0123456789ab); k 100; 2026-11-24, a CPU, 1 threads; numpy 2."


def test_a_report_keeps_each_configuration_of_a_system(tmp_path: Path) -> None:
    usual = result("nq", "latewood", 0.2) | {"data": "x", "per_query": {"q": dict.fromkeys(METRICS, 0.2)}}
    other = usual | {"settings": {"k": 20, "query_length": 48}, "nDCG@10": 0.3}
    report = Report([usual])
    report.put(other)
    report.put(usual | {"dataset": "scifact", "settings": {"k": 100, "query_length": 48}})
    assert report.results[:2] == [usual, other]
    assert report.systems == ["latewood", "latewood (k 20)"]
    report.put(other | {"nDCG@10": 0.4, "data": "y"})  # measured anew
    assert [r["nDCG@10"] for r in report.results] == [0.2, 0.4, 0.2]
    report.save(tmp_path / "r.json")
    assert "| nq | 0.2000 | **0.4000** |" in side_by_side(report.results)
    assert "| nq | latewood (k 20) | 0.4000 |" in markdown(report.results)
    both = cli("compare", tmp_path / "r.json", tmp_path / "r.json")
    assert "holds latewood, latewood (k 20); pass" in str(both.exception)
    sides = [f"{tmp_path / 'r.json'}:{name}" for name in report.systems]
    assert "was not the same data" in str(cli("compare", *sides).exception)


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    for text in (
        "",
        "[]",
        '{"format": 1}',
        '{"format": 1, "results": [1]}',
        '{"format": 1, "results": [{}]}',
        "[" * 10**5,
    ):
        file.write_text(text)
        with pytest.raises(CorpusError, match=r"no report of format 1|cannot read"):
            Report.load(file)


def test_systems_stand_side_by_side() -> None:
    results = [
        result("nq", "a", 0.2),
        result("nq", "b", 0.3),
        result("fiqa", "a", 0.1),
        result("tex", "a", 0.4),
    ]
    results += [result("tex", "b", 0.1) | {"split": "dev"}, result("fiqa", "b", 0.1)]
    assert side_by_side(results).splitlines() == [
        "| nDCG@10 | a | b |",
        "|---|---|---|",
        "| nq | 0.2000 | **0.3000** |",
        "| fiqa | **0.1000** | **0.1000** |",
        "| tex | **0.4000** |  |",
        "| tex (dev) |  | **0.1000** |",
        "| mean of 2 | 0.1500 | **0.2000** |",
    ]


@pytest.mark.slow
def test_plots_need_a_set_that_all_systems_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plot(tmp_path / "p.png", [result("nq", "a", 0.2), result("nq", "b", 0.3), result("fiqa", "a", 0.1)])
    assert (tmp_path / "p.png").stat().st_size > 5000
    with pytest.raises(ArgumentError, match="no data set was evaluated with all of a, b"):
        plot(tmp_path / "p.png", [result("nq", "a", 0.2), result("fiqa", "b", 0.3)])
    with pytest.raises(ArgumentError, match="cannot write"):
        plot(tmp_path / "none" / "p.png", [result("nq", "a", 0.2)])
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'latewood\[plot\]'"):
        plot(tmp_path / "p.png", [result("nq", "a", 0.2)])


def test_relative_paths_outlive_a_change_of_folder(
    bundled: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, index, report and runs lie where they were when they were given."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    collection(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    data = EvaluationSet.load("tiny")
    passages = read_source("tiny")
    system = LateInteraction(bundled, index_folder=Path("kept.index"))

    def moves(result: dict[str, Any], found: bool) -> None:
        monkeypatch.chdir(elsewhere)

    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        outputs = Outputs(report_file=Path("r.json"), run_folder=Path("runs"))
        evaluate_all([Bm25()], [data, replace(data, name="b")], outputs, say=moves)
    monkeypatch.chdir(elsewhere)
    assert [p["doc_id"] for p in data.passages()] == list(DOCUMENTS)
    assert [p["doc_id"] for p in passages] == list(DOCUMENTS)
    assert evaluate_system(system, data)["nDCG@10"] > 0.5
    assert not list(elsewhere.iterdir())
    assert len(Report.load(tmp_path / "r.json").results) == 2
    assert len(list((tmp_path / "runs").iterdir())) == 2
    with Index.open(tmp_path / "kept.index") as index:
        assert len(index) == 4


def test_runs_of_other_systems_are_measured_and_compared(tmp_path: Path) -> None:
    """Without a model, by the metrics of `evaluate`; queries that a run lacks count as 0."""
    folder, report = collection(tmp_path / "set"), tmp_path / "r.json"
    data = EvaluationSet.load(folder)
    worst = {qid: {doc["doc_id"]: 1.0 for doc in data.passages()} for qid in data.queries}
    best = {qid: {doc: float(grade) for doc, grade in judged.items()} for qid, judged in data.qrels.items()}
    first = next(iter(data.qrels))
    runs = {"worst": worst, "best": best, "some": {first: best[first], "unknown": {"x": 1.0}}}
    files = []
    for name, run in runs.items():
        write_run(tmp_path / f"{name}.trec", run)
        files += ["--run", tmp_path / f"{name}.trec"]
    result = cli("evaluate", folder, *files, "--model", "no such model", "--report", report)
    assert result.exit_code == 0, result.output
    assert f"1 of {len(data.queries)} queries answered" in result.output
    found = {r["system"]: r for r in Report.load(report).results}
    assert list(found) == list(runs)
    for name, run in runs.items():
        assert {m: found[name][m] for m in METRICS} == pytest.approx(evaluate(data.qrels, run))
        assert found[name]["ms_per_query"] is None
    again = cli("evaluate", folder, *files, "--report", report, "--baseline", "bm25", "--json")
    assert [b["system"] for b in json.loads(again.stdout)["baselines"]] == ["bm25"]
    assert [r["system"] for r in json.loads(again.stdout)["runs"]] == ["best", "some"]
    write_run(tmp_path / "some.trec", best)  # another run of the same name is measured anew
    cli("evaluate", folder, *files, "--report", report)
    assert Report.load(report).results[2]["nDCG@10"] == found["best"]["nDCG@10"]
    compared = cli("compare", f"{report}:worst", f"{report}:best")
    assert compared.exit_code == 0, compared.output
    assert "B: r.json, best" in compared.output


def test_a_run_of_another_data_set_is_refused(tmp_path: Path) -> None:
    for text, message in (("zzz Q0 d 1 1.0 x\n", "has queries as 'zzz', and none of set"), ("", "is empty")):
        (tmp_path / "a.trec").write_text(text)
        result = cli("evaluate", collection(tmp_path / f"{len(text)}" / "set"), "--run", tmp_path / "a.trec")
        assert message in str(result.exception)
