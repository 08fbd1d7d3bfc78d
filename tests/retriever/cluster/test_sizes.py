"""The calculator of clusters against what messages and shards are, and the command that prints it."""

import json
import pickle
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from encoder.errors import ArgumentError
from encoder.light import LightEncoder
from indexing import Index
from indexing.storage.sharded import open_snapshot
from indexing.writing.estimate import Estimate
from retriever.cli import app
from retriever.cluster.holding import Holder
from retriever.cluster.merging import ClusterSearcher
from retriever.cluster.sizes import QUERY_TOKENS, ClusterOptions, cluster_sizes

ONE = Estimate(
    documents=10**6, passages=10**6, chars=10**9, tokens=10**8, nlist=1 << 16, encode_seconds=9000.0,
    index_seconds=1000.0, disk_bytes=27 * 10**8, disk_peak_bytes=10**10, memory_bytes=10**9,
)  # fmt: skip


def test_more_machines_and_shards_share_what_there_is():
    one = cluster_sizes(ONE, ClusterOptions(shards=1, replicas=1), 128, cores=8)
    many = cluster_sizes(ONE, ClusterOptions(shards=4, machines=4, replicas=2), 128, cores=8)
    assert (one.processes, many.processes) == (1, 2)
    assert (one.shard_tokens, many.shard_tokens) == (10**8, 25 * 10**6)
    assert many.disk_bytes == 2 * many.shard_bytes == pytest.approx(one.disk_bytes / 2)
    assert many.build_seconds == one.build_seconds / 4 == 2500
    assert many.query_bytes == 4 * one.query_bytes
    assert many.query_ms < one.query_ms
    twice = cluster_sizes(ONE, ClusterOptions(shards=4, machines=8, replicas=4), 128, cores=8)
    assert twice.queries_per_second == 2 * many.queries_per_second
    assert cluster_sizes(ONE, ClusterOptions(), 128) is None
    with pytest.raises(ArgumentError, match="shards=0"):
        ClusterOptions(shards=0)


@pytest.mark.slow
def test_messages_are_of_the_size_that_is_foretold(tmp_path):
    """For a query of about so many tokens as are taken for typical; Ray's own envelope is within the constant."""
    encoder, sent = LightEncoder.load(), []
    with Index.create(tmp_path / "x", encoder, shards=2) as index:
        index.add({"doc_id": str(n), "text": f"The river {n} flows to the sea."} for n in range(300))
    with Holder(tmp_path / "x") as holder:

        def asking(asks):
            answers = holder.answer(asks)
            sent.append(sum(len(pickle.dumps(one)) for one in [*asks, *answers]))
            return answers

        with ClusterSearcher(open_snapshot(tmp_path / "x"), asking, encoder) as searcher:
            text = "which river flows to the sea and where does it begin, and how long is it in all?"
            tokens = len(searcher.encode([text]).vectors)
            searcher.search(text, k=10)
    foretold = cluster_sizes(ONE, ClusterOptions(shards=2), encoder.dim).query_bytes
    assert 0.6 < sent[0] / (foretold * tokens / QUERY_TOKENS) < 1.4


@pytest.mark.slow
def test_the_command_foretells_a_cluster_for_a_corpus_of_which_it_sees_a_sample(tmp_path):
    source = tmp_path / "some.jsonl"
    rows = [{"_id": str(n), "text": f"The river {n} flows to the sea."} for n in range(50)]
    source.write_text("\n".join(map(json.dumps, rows)))
    done = CliRunner().invoke(
        app, ["estimate", str(source), "--shards", "64", "--machines", "16", "--whole", "100000000", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["documents"] == 10**8
    assert found["tokens"] == pytest.approx(10**8 * 11, rel=0.2)
    whole = Estimate(**{name: found[name] for name in ONE.__dataclass_fields__ if name != "sizes"})
    expected = cluster_sizes(whole, ClusterOptions(shards=64, machines=16), 128)
    assert expected is not None
    assert found["cluster"] == asdict(expected)
    shown = CliRunner().invoke(app, ["estimate", str(source), "--shards", "4"]).stdout
    assert "as 4 shards, each 2 times, on 1 machines like this" in shown
