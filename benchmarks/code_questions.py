"""Which files answer a question about code: nDCG@10 by kind of question (tests/data/code_questions).

    python benchmarks/code_questions.py FOLDER                   # words and bm25, first answers, all encoded
    python benchmarks/code_questions.py FOLDER a.trec b.trec     # runs whose documents are package/path/inside.py

FOLDER is made, where there is none, from the packages that are installed. `evaluate` measures any search for files.
--semble PEER/bin/python, of an environment that has semble, adds its words (alpha=0) with its own ranking of code;
its model lies on a hub, so a static one of random vectors stands in for it and weighs nothing.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from encoder.jsonl import read_rows
from retriever.evaluation.metrics import Ranking, evaluate_queries, mean
from retriever.evaluation.qrels import Qrels, read_qrels
from retriever.evaluation.report import read_run

__all__ = ["BASELINES", "by_kind", "copy_packages", "evaluate", "installed", "judged", "missing", "questions"]

DATA = Path(__file__).parent.parent / "tests" / "data" / "code_questions"
CHUNKS = 1000  # hits that are folded into files
SEMBLE = """
import json, sys
from semble import SembleIndex
index = SembleIndex.from_path(sys.argv[1], model_path=sys.argv[2])
for line in sys.stdin:
    found = index.search(json.loads(line), top_k=100, alpha=0.0)
    print(json.dumps([one.chunk.file_path for one in found]), flush=True)
"""
Search = Callable[[str], list[str]]
"""A question → files as `package/path/inside.py`, best first."""


def questions() -> dict[str, tuple[str, str]]:
    """{query id: (text, kind)}."""
    rows = read_rows(DATA / "queries.jsonl")
    return {row.get("_id", str): (row.get("text", str), row.get("metadata", dict)["kind"]) for row in rows}


def judged() -> Qrels:
    return read_qrels(DATA / "qrels" / "test.tsv")[0]


def installed() -> dict[str, tuple[Path, str, str]]:
    """{package: (its folder, the version installed, the version judged)}."""
    packages = json.loads((DATA / "versions.json").read_text(encoding="utf-8"))
    found = {}
    for package, known in packages.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{package} is not installed; pip install {known['distribution']}")
        version = importlib.metadata.version(known["distribution"])
        found[package] = (Path(spec.submodule_search_locations[0]), version, known["version"])
    return found


def missing(site: Mapping[str, Path]) -> list[str]:
    """Judged files that are not there. site: {package: its folder}."""
    files = sorted({file for own in judged().values() for file in own})
    parts = [file.partition("/") for file in files]
    return ["/".join((package, path)) for package, _, path in parts if not (site[package] / path).is_file()]


def copy_packages(folder: Path) -> None:
    """Copies of all text files of the packages, tests and vendored copies included, under folder/PACKAGE."""
    for package, (source, _, _) in installed().items():
        for file in sorted(source.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and b"\0" not in file.read_bytes():
                copy = folder / package / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


def by_kind(run: Mapping[str, Ranking]) -> dict[str, float]:
    """nDCG@10 of each kind of question, and of all."""
    values = evaluate_queries(judged(), run)
    kinds = {qid: kind for qid, (_, kind) in questions().items()}
    groups = {
        kind: {q: v for q, v in values.items() if kinds[q] == kind} for kind in sorted({*kinds.values()})
    }
    return {kind: mean(group)["nDCG@10"] for kind, group in {**groups, "all": values}.items()}


def evaluate(search: Search) -> dict[str, float]:
    """nDCG@10 of each kind of question, and of all: {"behaviour": ..., "handling": ..., "symbol": ..., "all": ...}."""
    return by_kind({qid: search(text) for qid, (text, _) in questions().items()})


@contextmanager
def words(folder: Path) -> Iterator[Search]:
    """Full text of an index without vectors; a file stands where its best chunk does."""
    import numpy as np

    from indexing import Index
    from indexing.reading.corpus import read_folder
    from retriever import Searcher

    passages = list(read_folder(folder))
    with tempfile.TemporaryDirectory() as work, Index.create(Path(work) / "words.index", dim=8) as index:
        index.add_embeddings(
            [p["doc_id"] for p in passages],
            [np.empty((0, 8), np.float32)] * len(passages),
            [p["text"] for p in passages],
            [p["metadata"] for p in passages],
        )
        searcher = Searcher(index)

        def search(question: str) -> list[str]:
            hits = searcher.search(question, k=CHUNKS, mode="lexical")
            return list(dict.fromkeys(hit.metadata["path"] for hit in hits))

        yield search


@contextmanager
def bm25(folder: Path) -> Iterator[Search]:
    """bm25s on whole files, with stemming and English stop words, at its own k1 and b."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [file.relative_to(folder).as_posix() for file in files]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    model = bm25s.BM25()
    model.index(
        bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
    )

    def search(question: str) -> list[str]:
        tokens = bm25s.tokenize([question], stopwords="en", stemmer=stemmer, show_progress=False)
        found, scores = model.retrieve(tokens, k=min(100, len(names)), show_progress=False)
        return [names[i] for i, score in zip(found[0], scores[0], strict=True) if score > 0]

    yield search


@contextmanager
def first(folder: Path) -> Iterator[Search]:
    """`latewood search FOLDER` of a folder of which nothing is encoded yet, for each question anew."""
    with _cached(folder) as (cache, answer):
        untouched = cache.with_name("untouched")
        shutil.copytree(cache, untouched)

        def search(question: str) -> list[str]:
            shutil.rmtree(cache)
            shutil.copytree(untouched, cache)
            return answer(question)

        yield search


@contextmanager
def encoded(folder: Path) -> Iterator[Search]:
    """`latewood search FOLDER --wait`."""
    from retriever.folders import Folder

    with _cached(folder) as (_, answer):
        with Folder.open(folder) as found:
            found.encode()
        yield answer


@contextmanager
def _cached(folder: Path) -> Iterator[tuple[Path, Search]]:
    """Where the folder's index lies, all words and no vectors in it, and the command's answers."""
    from retriever import SearchOptions
    from retriever.code.search import search_code
    from retriever.folders import Folder, cache_of

    def answer(question: str) -> list[str]:
        options = SearchOptions(k=10)
        with Folder.open(folder, once=True) as found:
            found.prepare(question, options)
            hits = search_code(found.searcher, question, found.answerable(options))
        return list(dict.fromkeys(hit.path for hit in hits))

    with tempfile.TemporaryDirectory() as work:
        os.environ["LATEWOOD_CACHE"] = work
        Folder.open(folder).close()
        yield cache_of(folder.resolve()), answer


@contextmanager
def semble(python: Path, folder: Path) -> Iterator[Search]:
    """semble's BM25 and all its rules for code, a file where its best chunk is."""
    from first_answer import MODEL

    tokenizer = Path(__file__).parent.parent / "encoder/models/latewood-mini/tokenizer.json"
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([python, "-c", MODEL, tokenizer, f"{work}/model"], check=True)
        command = [python, "-c", SEMBLE, folder, f"{work}/model"]
        environment = {**os.environ, "SEMBLE_CACHE_LOCATION": work}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as peer:
            assert peer.stdin is not None
            assert peer.stdout is not None

            def search(question: str) -> list[str]:
                print(json.dumps(question), file=peer.stdin, flush=True)
                return list(dict.fromkeys(json.loads(peer.stdout.readline())))

            yield search
            peer.stdin.close()


BASELINES: dict[str, Callable[[Path], AbstractContextManager[Search]]] = {
    "words": words,
    "bm25": bm25,
    "first": first,
    "encoded": encoded,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--semble", type=Path)
    given = parser.parse_args()
    if not given.folder.exists():
        copy_packages(given.folder)
    absent = missing({package: given.folder / package for package in installed()})
    for package, (_, version, wanted) in installed().items():
        own = [file for file in absent if file.startswith(f"{package}/")]
        if own or version != wanted:
            print(
                f"{package} {version}, judged {wanted}; lacks {', '.join(own) or 'no file'}", file=sys.stderr
            )
    figures = {str(run): by_kind(read_run(run)) for run in given.runs}
    contenders = {} if given.runs else dict(BASELINES)
    if given.semble is not None:
        contenders["semble"] = partial(semble, given.semble)
    for name, baseline in contenders.items():
        with baseline(given.folder) as search:
            figures[name] = evaluate(search)
    for name, values in figures.items():
        print(name, *(f"{kind}={value:.4f}" for kind, value in values.items()), flush=True)


if __name__ == "__main__":
    main()
