"""Shards built by Ray on this machine, against what the sources hold."""

import itertools
import json
import os
import sys

import pytest

from encoder import Encoder
from encoder.errors import ArgumentError, CorpusError, MissingDependencyError
from indexing import Index
from indexing.storage.sharded import Manifest, shard_of
from indexing.storage.tables import BUILD, is_index
from retriever import Searcher
from retriever.cluster import build as building
from retriever.cluster.build import build
from retriever.cluster.joining import joined, ray_module
from retriever.cluster.options import BuildOptions

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

WORDS = [
    "heart",
    "blood",
    "pump",
    "bank",
    "rate",
    "loan",
    "river",
    "stone",
    "water",
    "light",
    "cell",
    "trade",
]
TEXTS = [" ".join(words) for words in itertools.permutations(WORDS, 3)]
ONE = BuildOptions(shards=2, actors=1)


@pytest.fixture(scope="module")
def ray():
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    ray = ray_module()
    ray.init(num_cpus=3, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load()


def document(i, text=None):
    return {"_id": f"d{i}", "text": text or TEXTS[i], "n": i}


def lines(path, documents):
    path.write_text("".join(json.dumps(one) + "\n" for one in documents))
    return str(path)


def held(folder):
    with Index.open(folder) as index:
        index.verify()
        for i, part in enumerate(index.snapshot().parts):
            assert all(shard_of(doc_id, len(index.snapshot().parts)) == i for doc_id in part.ids())
        return {d.doc_id: (d.text, d.metadata) for d in index}


def wanted(documents):
    return {d["_id"]: (d["text"], {"n": d["n"]}) for d in documents}


def writers():
    """Of all builds so far, by Ray's names."""
    from ray._private.state import actors  # the public list wants the dashboard

    return [name for name, one in actors().items() if "ShardWriter" in one["ActorClassName"]]


def test_what_was_built_is_what_the_sources_hold(ray, encoder, tmp_path, monkeypatch):
    """A sample trains the codec, and the rest is coded where it is encoded."""
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(building, "_share", lambda plan, most: 0.4)
    documents = [document(i) for i in range(600)]
    path = lines(tmp_path / "a.jsonl", documents[:300])
    for name, some in (("b-0", documents[300:450]), ("b-1", documents[450:])):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some), tmp_path / f"{name}.parquet")
    sources, steps = [f"file://{path}", str(tmp_path / "b-*.parquet")], []
    out = tmp_path / "x.index"
    report = build(sources, out, encoder, ONE, progress=steps.append, flat_tokens=1500)
    assert held(out) == wanted(documents)
    assert (report.documents, report.encoded, report.version) == (600, 600, 1)
    assert [s.done for s in steps if s.ended and s.phase in ("reading", "encoding")] == [600, 600]
    assert sorted(path.name for path in out.iterdir()) == ["index.lock", "shards.json", "v0001"]
    assert sorted(path.name for path in (out / "v0001").iterdir()) == ["000", "001"]
    with Index.open(out) as index, Searcher(index, encoder) as searcher:
        assert index.info()["kind"] == "compressed"
        assert Manifest.read(out).codec is not None
        for i in (0, 250, 599):
            assert searcher.search(TEXTS[i], k=1, mode="late", nrerank=600)[0].text == TEXTS[i]
    # Another version, of what the sources hold by then; the reader of the one before is not disturbed.
    with Index.open(out) as before:
        monkeypatch.undo()  # a small corpus is stored, and then coded
        changed = [document(i, "a stone in water" if i < 9 else None) for i in range(120)]
        source, three = lines(tmp_path / "a.jsonl", changed), BuildOptions(shards=3, actors=1)
        known = set(writers())
        steps.clear()
        report = build([source], out, encoder, three, progress=steps.append, flat_tokens=300)
        ended = [(s.phase, s.done) for s in steps if s.ended]
        assert ended == [
            ("reading", 120),
            ("encoding", 120),
            ("training the codec", 1),
            ("compressing", 3),
        ]
        assert len(set(writers()) - known) == 3  # those that store what is encoded code it, too
        assert (report.version, report.documents, report.encoded) == (2, 120, 120)
        assert held(out) == wanted(changed)
        assert len(before) == 600
        assert before.reload()
        assert (len(before), before.info()["kind"]) == (120, "compressed")


def test_a_build_goes_on_after_an_actor_a_writer_and_the_driver_have_died(
    ray, encoder, tmp_path, monkeypatch
):
    from ray._private.state import actors  # the public list wants the dashboard

    monkeypatch.setattr(building, "BLOCK_BYTES", 1 << 12)

    documents = [document(i) for i in range(900)]
    source, out, times = lines(tmp_path / "a.jsonl", documents), tmp_path / "x.index", []

    def killing(step):
        if step.phase != "encoding" or step.done == 0 or step.ended:
            return
        times.append(step.done)
        name = {1: "MapWorker", 2: "ShardWriter"}.get(len(times))
        if name:
            [actor, *_] = [
                one for one in actors().values() if name in one["ActorClassName"] and one["State"] == "ALIVE"
            ]
            os.kill(actor["Pid"], 9)
        if len(times) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([source], out, encoder, ONE, progress=killing)
    assert not is_index(out)
    plan = json.loads((out / BUILD).read_text())
    assert (plan["documents"], plan["version"]) == (900, 1)
    with pytest.raises(ArgumentError, match=r"unfinished build with other shards \(2\)"):
        build([source], out, encoder, BuildOptions(shards=3, actors=1))
    # Meanwhile the source has changed: what it has no more goes, what is other is encoded.
    changed = [document(i, "a stone in water" if i < 3 else None) for i in range(850)]
    lines(tmp_path / "a.jsonl", changed)
    report = build([source], out, encoder, ONE)
    assert held(out) == wanted(changed)
    assert report.documents == 850
    assert report.encoded < 850


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n',
            "doc_id 'a' comes twice, with different texts",
        ),
        ('{"_id": "a", "text": "x"}\nno\n', r"a.jsonl:2 is not JSON"),
        ("", "hold no documents"),
    ],
)
def test_a_source_that_is_wrong_is_one_line(ray, encoder, tmp_path, text, said):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(CorpusError, match=said) as raised:
        build([str(path)], tmp_path / "x", encoder, ONE)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_built_is_refused_before_it_is_begun(ray, encoder, tmp_path):
    source = lines(tmp_path / "a.jsonl", [document(1)])
    refused = [
        (source, BuildOptions(actors=4), "actors=4 of 1 CPUs each: .* room for 3; pass --actors 3"),
        (source, BuildOptions(gpus=1), "add machines"),
        (str(tmp_path / "none.jsonl"), ONE, "does not exist"),
        (f"file://{tmp_path}/none.jsonl", ONE, "does not exist"),
        (f"file://{tmp_path}/*.parquet", ONE, "does not exist"),
        ("s3://bucket/folder", ONE, "is no .jsonl, .jsonl.gz or .parquet file"),
        ("nosuch://bucket/a.jsonl", ONE, "cannot read nosuch://bucket/a.jsonl: Protocol not known"),
    ]
    for path, options, said in refused:
        with pytest.raises((ArgumentError, CorpusError), match=said):
            build([path], tmp_path / "x", encoder, options)
    assert not (tmp_path / "x").exists()
    Index.create(tmp_path / "one", dim=8).close()
    with pytest.raises(ArgumentError, match="without shards"):
        build([source], tmp_path / "one", encoder, ONE)


def test_without_ray_a_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'latewood\[ray\]'"), joined("local"):
        pass


def test_a_cluster_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ArgumentError, match="no Ray cluster at 'auto'"), joined("auto"):
        pass
