"""The commands on an index of shards, against one index of the same documents and the same codec."""

import itertools
import json
import shutil

import pytest
from typer.testing import CliRunner

from encoder.light import LightEncoder
from indexing import Index
from retriever import Searcher
from retriever.cli import app

pytestmark = pytest.mark.slow

WORDS = ("heart", "blood", "pump", "bank", "rate", "loan", "river", "stone", "water")
TEXTS = [" ".join(words) for words in itertools.permutations(WORDS, 3)]
QUERIES = ["blood in the heart", "a river of stone", "the bank's rate"]


def run(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beir") / "tiny"
    (folder / "qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": f"d{i}", "text": text, "n": i}) for i, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    rows = [json.dumps({"_id": f"q{i}", "text": text}) for i, text in enumerate(QUERIES)]
    (folder / "queries.jsonl").write_text("\n".join(rows) + "\n")
    rows = [f"q{i}\td{n}\t1\n" for i in range(3) for n in range(100 * i, 100 * i + 9)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    """(of shards, of one)"""
    place, encoder = tmp_path_factory.mktemp("indexes"), LightEncoder.load()
    documents = [{"doc_id": f"d{i}", "text": text, "metadata": {"n": i}} for i, text in enumerate(TEXTS)]
    with (
        Index.create(place / "many", encoder, shards=3, flat_tokens=1000) as many,
        Index.create(place / "one", encoder, flat_tokens=10**9) as one,
    ):
        many.add(documents)
        one.add(documents)
        one._writer.trains = False
        one._writer.adopt(many.snapshot().codec, 0.0)
    return place / "many", place / "one"


@pytest.fixture
def own(indexes, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in indexes]


def test_info_verifies_all_shards(indexes):
    many, one = (
        json.loads(run("info", folder, "--verify", "--json").partition("\nverified")[0]) for folder in indexes
    )
    assert (many["shards"], many["kind"], many["segments"]) == (3, "compressed", 3)
    for key in ("documents", "passages", "tokens", "nlist", "m", "encoder_fingerprint"):
        assert many[key] == one[key]


@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
def test_search_gives_the_hits_of_one_index(indexes, mode):
    asked = [*QUERIES, "--json", "-k", "20", "--mode", mode, "--filter", "n > 50"]
    many, one = (json.loads(run("search", folder, *asked)) for folder in indexes)
    assert many == one
    assert len(many) == 3


def test_explain_says_what_it_says_of_one_index(indexes):
    many, one = (run("search", folder, QUERIES[0], "--explain", "-k", "3") for folder in indexes)
    assert many == one


def test_evaluate_measures_an_index_that_is_there(indexes, beir):
    many, one = (
        json.loads(run("evaluate", beir, "--index", folder, "--json", "--mode", "hybrid"))
        for folder in indexes
    )
    keys = ("nDCG@10", "R@100", "RR@10", "documents", "tokens", "encoded_tokens")
    assert [many[key] for key in keys] == [one[key] for key in keys]


def test_tune_compact_and_export_take_shards(own, tmp_path):
    many, _ = own
    run("tune", many, "-k", "5", "-n", "8")
    with Index.open(many) as index, Searcher(index, LightEncoder.load()) as searcher:
        assert index.tuned_search.k == 5
        assert searcher.search(TEXTS[7], k=1, mode="late")[0].doc_id == "d7"
    with Index.open(many, writable=True) as index:
        index.delete(filter="n < 400")
    assert f"{len(TEXTS) - 400} documents" in run("compact", many)
    run("export", many, "--out", tmp_path / "vectors")
    run("import", tmp_path / "vectors", "--out", tmp_path / "back")
    with Index.open(many) as index, Index.open(tmp_path / "back") as back:
        assert {d.doc_id: d for d in back} == {d.doc_id: d for d in index}


def test_a_folder_is_followed_as_by_one_index(tmp_path):
    encoder = LightEncoder.load()
    for name, shards in (("many", 2), ("one", None)):
        Index.create(tmp_path / name, encoder, shards=shards).close()
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.py").write_text(f"def {name}(): return {name!r}\n")

    def follow():
        both = [run("index", folder, "--out", tmp_path / name, "--update") for name in ("many", "one")]
        many, one = ([line.partition(" tokens")[0] for line in done.splitlines()[:2]] for done in both)
        assert many == one
        found = []
        for name in ("many", "one"):
            with Index.open(tmp_path / name) as index:
                index.verify()
                found.append({d.doc_id: d for d in index})
        assert found[0] == found[1]
        return found[0]

    assert follow().keys() == {"a.py::a", "b.py::b", "c.py::c"}
    (folder / "a.py").unlink()
    (folder / "b.py").rename(folder / "d.py")
    (folder / "c.py").write_text("def c(): return 3\n")
    assert follow().keys() == {"d.py::b", "c.py::c"}


def test_serve_answers_from_shards(indexes):
    from fastapi.testclient import TestClient

    from retriever.serving import ServeSettings, create_app

    found = []
    for folder in indexes:
        with TestClient(create_app(ServeSettings({"x": folder})), "http://localhost") as client:
            answer = client.post("/v1/indexes/x/search", json={"query": QUERIES[0], "k": 9})
            assert answer.status_code == 200, answer.text
            found.append([(hit["doc_id"], hit["score"]) for hit in answer.json()["hits"]])
    many, one = found  # by numpy or by the kernels, whichever is loaded
    assert many[0][0] == one[0][0]
    assert [score for _, score in many] == pytest.approx([score for _, score in one], rel=1e-3)
