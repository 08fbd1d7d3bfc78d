"""Published data sets by name, fetched once by mteb (the extra `eval`) into BEIR folders that then work offline.

mteb is the loader because it alone has them all: BEIR, NanoBEIR, MLDR, LongEmbed and CoIR.
"""

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.arguments import absolute
from encoder.errors import ArgumentError, CorpusError, MissingDependencyError
from indexing.storage.durable import remove
from retriever.evaluation.datasets import EvaluationSet

__all__ = ["DEFAULT_CACHE", "Published", "fetch", "published", "short_name"]

DEFAULT_CACHE = Path("~/.cache/latewood/datasets")


@dataclass(frozen=True)
class Published:
    """A data set of mteb's: its task, the subset (a language, or "default") and the split to measure on."""

    name: str
    task: str
    subset: str = "default"
    split: str = "test"


# BEIR's fifteen public sets, in its paper's order, by the names of its own folders.
_BEIR = {
    "msmarco": "MSMARCO",
    "trec-covid": "TRECCOVID",
    "nfcorpus": "NFCorpus",
    "nq": "NQ",
    "hotpotqa": "HotpotQA",
    "fiqa": "FiQA2018",
    "arguana": "ArguAna",
    "webis-touche2020": "Touche2020",
    "cqadupstack": "",  # twelve forums, below
    "quora": "QuoraRetrieval",
    "dbpedia-entity": "DBPedia",
    "scidocs": "SCIDOCS",
    "fever": "FEVER",
    "climate-fever": "ClimateFEVER",
    "scifact": "SciFact",
}
_FORUMS = "android english gaming gis mathematica physics programmers stats tex unix webmasters wordpress"
_NANO = {
    "arguana": "ArguAna",
    "climate-fever": "ClimateFever",
    "dbpedia-entity": "DBPedia",
    "fever": "FEVER",
    "fiqa": "FiQA2018",
    "hotpotqa": "HotpotQA",
    "msmarco": "MSMARCO",
    "nfcorpus": "NFCorpus",
    "nq": "NQ",
    "quora": "Quora",
    "scidocs": "SCIDOCS",
    "scifact": "SciFact",
    "webis-touche2020": "Touche2020",
}
_MLDR = "ar de en es fr hi it ja ko pt ru th zh"
_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_LANGUAGES = "go java javascript php python ruby"
_COIR = {
    "apps": "AppsRetrieval",
    "codefeedback-mt": "CodeFeedbackMT",
    "codefeedback-st": "CodeFeedbackST",
    "codetrans-contest": "CodeTransOceanContest",
    "codetrans-dl": "CodeTransOceanDL",
    "cosqa": "CosQA",
    "synthetic-text2sql": "SyntheticText2SQL",
}


def _groups() -> dict[str, list[Published]]:
    beir: list[Published] = []
    forums = [Published(f"cqadupstack-{f}", f"CQADupstack{f.title()}Retrieval") for f in _FORUMS.split()]
    for name, task in _BEIR.items():
        if name == "cqadupstack":
            beir += forums
        else:
            beir.append(Published(name, task, split="dev" if name == "msmarco" else "test"))
    longembed = [
        Published(f"longembed-{name}", f"LEMB{task}Retrieval", split=split)
        for name, task, split in (
            ("narrativeqa", "NarrativeQA", "test"),
            ("qmsum", "QMSum", "test"),
            ("summ-screen-fd", "SummScreenFD", "validation"),
            ("2wikimqa", "WikimQA", "test"),
        )
    ]
    longembed += [
        Published(f"longembed-{name}-{length}", f"LEMB{name.title()}Retrieval", split=f"test_{length}")
        for name in ("needle", "passkey")
        for length in _LENGTHS
    ]
    stackoverflow = Published("stackoverflow-qa", "StackOverflowQA")
    by_language = {
        prefix: [Published(f"{prefix}-{language}", task, language) for language in _LANGUAGES.split()]
        for prefix, task in (
            ("codesearchnet", "CodeSearchNetRetrieval"),
            ("coir-codesearchnet", "COIRCodeSearchNetRetrieval"),
            ("coir-codesearchnet-ccr", "CodeSearchNetCCRetrieval"),
        )
    }
    coir = [Published(f"coir-{name}", task) for name, task in _COIR.items()]
    return {
        "beir": beir,
        "cqadupstack": forums,
        "nanobeir": [Published(f"nano-{n}", f"Nano{t}Retrieval", split="train") for n, t in _NANO.items()],
        "mldr": [
            Published(f"mldr-{language}", "MultiLongDocRetrieval", language) for language in _MLDR.split()
        ],
        "longembed": longembed,
        "codesearchnet": by_language["codesearchnet"],
        "coir": [
            *coir,
            *by_language["coir-codesearchnet"],
            *by_language["coir-codesearchnet-ccr"],
            stackoverflow,
        ],
    }


GROUPS = _groups()
NAMES = {one.name: one for group in GROUPS.values() for one in group}


def published(name: str) -> list[Published]:
    """The data sets of a name: one ("scifact", "mldr-de"), or a group's ("beir", "nanobeir", "coir", ...).

    `mteb:TASK`, or `mteb:TASK/SUBSET`, is any retrieval task of mteb's, on its split "test".
    Raises ArgumentError for a name that is not known, with the nearest that are.
    """
    if name.startswith("mteb:"):
        task, _, subset = name.removeprefix("mteb:").partition("/")
        own = f"mteb-{task}-{subset}".rstrip("-").lower()
        return [Published(own, task, subset or "default")]
    plain = name.lower().replace("_", "-")
    if plain in GROUPS:
        return GROUPS[plain]
    if plain in NAMES:
        return [NAMES[plain]]
    near = difflib.get_close_matches(plain, [*GROUPS, *NAMES], n=3)
    hint = f"; near it: {', '.join(near)}" if near else f"; groups are {', '.join(GROUPS)}"
    raise ArgumentError(f"{name!r} is neither a folder nor the name of a data set{hint}")


def short_name(task: str, subset: str = "default") -> str:
    """The name here of one of mteb's tasks, by which BEIR's conventions go; the task's own where it has none."""
    return next((one.name for one in NAMES.values() if (one.task, one.subset) == (task, subset)), task)


def fetch(one: Published, cache: str | os.PathLike[str] = DEFAULT_CACHE) -> EvaluationSet:
    """The data set, from the cache or by mteb, which downloads it from the Hugging Face hub.

    Raises MissingDependencyError without mteb, CorpusError where the download fails.
    """
    folder = absolute(cache).resolve() / one.name
    if not folder.is_dir():
        aside = folder.with_name(folder.name + ".aside")
        remove(aside)
        data = _load(one)
        try:
            _write_beir(aside, one, data)
        except (KeyError, TypeError) as error:
            raise CorpusError(
                f"{one.name}: what mteb gave is no text retrieval set ({error!r}); pass a BEIR folder"
            ) from error
        aside.rename(folder)
    return EvaluationSet.load(folder, one.split, name=one.name)


def _load(one: Published) -> Mapping[str, Any]:
    """mteb's RetrievalSplitData: corpus and queries, rows with id and text; relevant_docs."""
    try:
        import mteb
    except ImportError as error:
        raise MissingDependencyError(
            f"{one.name} is fetched by mteb, which is not installed; pip install 'latewood[eval]', "
            "or pass a BEIR folder"
        ) from error

    try:
        task = mteb.get_task(one.task, eval_splits=[one.split], hf_subsets=[one.subset])
        task.load_data()
        task.convert_v1_dataset_format_to_v2(num_proc=None)
        found: Mapping[str, Any] = task.dataset[one.subset][one.split]
    except Exception as error:  # whatever a hub, a proxy and four libraries between may raise
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CorpusError(
            f"cannot fetch {one.name} ({type(error).__name__}: {reason:.150}); check the network, "
            "or pass a BEIR folder"
        ) from error
    return found


def _write_beir(folder: Path, one: Published, data: Mapping[str, Any]) -> None:
    judged: Mapping[str, Mapping[str, int]] = data["relevant_docs"]
    (folder / "qrels").mkdir(parents=True)
    _write_lines(folder / "corpus.jsonl", (_row(row) for row in data["corpus"]))
    _write_lines(folder / "queries.jsonl", (_row(row) for row in data["queries"] if row["id"] in judged))
    with (folder / "qrels" / f"{one.split}.tsv").open("w", encoding="utf-8", newline="\n") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for qid, documents in judged.items():
            for doc, score in documents.items():
                file.write(f"{qid}\t{doc}\t{int(score)}\n")


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    text = row["text"]
    if not isinstance(text, str):
        raise TypeError(f"text of {row['id']!r} is {type(text).__name__}")
    return {"_id": str(row["id"]), "title": row.get("title") or "", "text": text}


def _write_lines(path: Path, rows: Iterable[Mapping[str, str]] | Iterator[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
