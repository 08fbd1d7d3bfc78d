"""Retrieval training at toy size. Queries are in words that documents never use: `q7` asks for `d7`, so that
nothing matches until a model has learnt which word means which."""

import gzip
import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

import encoder.training.objective as objective
import retriever.mining
from encoder import Encoder
from encoder.checkpoints.loading import Checkpoint, load_checkpoint, save_checkpoint
from encoder.errors import ArgumentError, CorpusError
from encoder.maxsim import maxsim
from encoder.model import modernbert
from encoder.model.config import DenseConfig, EncoderConfig
from encoder.model.late_interaction import Dense, LateInteractionModel
from encoder.model.modernbert import ModernBert
from encoder.tokenizer import LateTokenizer, TokenizerSettings
from encoder.training.configs import RetrievalConfig
from encoder.training.losses import (
    contrastive_loss,
    kl_loss,
    margin_mse_loss,
    maxsim_scores,
    pooled_scores,
    same_text_mask,
    standardised,
)
from encoder.training.objective import RetrievalLoss
from encoder.training.pairs import Batch, Example, Source, batches, read_examples
from encoder.training.retrieval import train_retrieval
from encoder.training.topics import Topics
from retriever.cli import app
from retriever.evaluation import EvaluationSet, evaluate, evaluate_exact
from retriever.mining import MiningConfig, mine, mine_file
from retriever.searcher import Searcher

N_WORDS = 24


def tokenizer():
    words = [f"{kind}{i}" for kind in "qd" for i in range(N_WORDS)]
    vocabulary = {
        t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[Q] ", "[D] ", *words])
    }
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    backbone = ModernBert(
        EncoderConfig(
            vocab_size=7 + 2 * N_WORDS, hidden_size=32, intermediate_size=32, num_layers=2, num_heads=2
        )
    )
    backbone.initialise(generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    head = Dense(DenseConfig(32, 16))
    settings = TokenizerSettings(
        query_length=16, document_length=32, do_query_expansion=False, skiplist_words=()
    )
    checkpoint = Checkpoint(LateInteractionModel(backbone, [head]), LateTokenizer(tokenizer(), settings))
    save_checkpoint(folder, checkpoint)
    return folder


def examples(n, seed, negatives=3):
    """A document has the query's three words, in its own language, among three others; a negative two of them."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        words = random.permutation(N_WORDS)
        asked, others = words[:3], words[3:]
        texts = [[*asked, *others[:3]]]
        texts += [[*random.permutation(asked)[:2], *random.permutation(others)[:4]] for _ in range(negatives)]
        documents = [" ".join(f"d{w}" for w in random.permutation(t)) for t in texts]
        made.append({"query": " ".join(f"q{w}" for w in asked), "pos": documents[0], "negs": documents[1:]})
    return made


def write(path, rows):
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = examples(600, seed=0)
    write(folder / "mined.jsonl.gz", rows)
    scored = [row | {"scores": [3.0, *[1.0] * len(row["negs"])]} for row in rows]
    write(folder / "scored.jsonl.gz", scored)
    return folder


def config(model_dir, **changes):
    values = {
        "model": str(model_dir), "steps": 200, "batch_size": 16, "query_length": 16, "document_lengths": (16, 32),
        "temperature": 0.1, "lr": 3e-3, "embedding_lr": 3e-3, "warmup": 10,
    }  # fmt: skip
    return RetrievalConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer().save(str(folder / "tokenizer.json"))
    torch.manual_seed(1)
    shape = BertConfig(
        vocab_size=7 + 2 * N_WORDS, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertModel(shape).save_pretrained(folder)
    return folder


ALONE = {"contrastive_weight": 0.0}
# Settings, examples, the part of the held-out loss that may be left after 200 steps, and the loss's function.
LOSSES = {
    "contrastive": ({}, "mined", 0.5, "contrastive_loss"),
    "pooled": ({"similarity": "pooled"}, "mined", 0.5, "contrastive_loss"),
    "kl": (ALONE | {"kl_weight": 1.0}, "scored", 0.5, "kl_loss"),
    "margin": (ALONE | {"margin_weight": 1.0}, "scored", 0.8, "margin_mse_loss"),
    "tokens": (ALONE | {"token_weight": 1.0}, "mined", 0.5, "token_cosine_loss"),
    "teacher kl": (ALONE | {"teacher_kl_weight": 1.0}, "mined", 0.6, "kl_loss"),
    "unlabelled": (
        {"teacher_kl_weight": 1.0, "teacher_pooled": 0.5, "idf": True, "topics": 4},
        "mined",
        0.75,
        "kl_loss",
    ),
}


def loss_of_training(name, model_dir, data, teacher_dir, place):
    """(before, after) on held-out examples."""
    changes, source, *_ = LOSSES[name]
    if changes.keys() & {"token_weight", "teacher_kl_weight"}:
        changes = changes | {"teacher": str(teacher_dir)}
    sources = [(data / f"{source}.jsonl.gz", 1.0)]
    if name == "unlabelled":
        sources, changes = [], changes | {"unlabelled": (str(data / f"{source}.jsonl.gz"),)}
    result = train_retrieval(sources, place / "out", place / "run", config(model_dir, **changes))
    assert (place / "run" / "projection.safetensors").is_file() == (name == "tokens")
    return result["held_out_loss_before"], result["held_out_loss"]


def is_learnt(name, before, after):
    return after < LOSSES[name][2] * before


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_learnt(name, model_dir, data, teacher_dir, tmp_path):
    before, after = loss_of_training(name, model_dir, data, teacher_dir, tmp_path)
    assert is_learnt(name, before, after), (before, after)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_its_sign_flipped_fails_that_test(
    name, model_dir, data, teacher_dir, tmp_path, monkeypatch
):
    function = LOSSES[name][3]
    true = getattr(objective, function)
    monkeypatch.setattr(objective, function, lambda *a: -true(*a))
    before, after = loss_of_training(name, model_dir, data, teacher_dir, tmp_path)
    assert before < 0  # the true loss, its sign flipped
    assert not is_learnt(name, -before, -after), (before, after)


def test_losses_equal_their_definitions():
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    queries, q_lengths = unit(7, 8), torch.tensor([3, 4])
    documents, d_lengths = unit(12, 8), torch.tensor([5, 1, 6])
    scores = maxsim_scores(queries, q_lengths, documents, d_lengths)
    offsets = torch.tensor([0, 5, 6, 12])
    for i, q in enumerate(queries.split([3, 4])):
        torch.testing.assert_close(scores[i], maxsim(q, documents, offsets) / len(q))
    pooled = pooled_scores(queries, q_lengths, documents, d_lengths)
    by_hand = torch.cosine_similarity(queries[3:].mean(0), documents[6:].mean(0), dim=0)
    torch.testing.assert_close(pooled[1, 2], by_hand)

    positives = torch.tensor([0, 2])
    ignored = torch.tensor([[False, True, False], [False, False, False]])
    loss = contrastive_loss(scores, positives, ignored, 0.1)
    first = -math.log(math.exp(scores[0, 0] / 0.1) / sum(math.exp(scores[0, j] / 0.1) for j in (0, 2)))
    second = -math.log(math.exp(scores[1, 2] / 0.1) / sum(math.exp(scores[1, j] / 0.1) for j in range(3)))
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-5)

    teacher = torch.tensor([[1.0, 0.2, 0.1], [0.3, 0.2, 0.9]])
    p, q = torch.softmax(teacher / 0.5, -1), torch.softmax(scores / 0.5, -1)
    assert kl_loss(scores, teacher, 0.5).item() == pytest.approx(
        (p * (p / q).log()).sum().item() / 2, abs=1e-5
    )
    assert kl_loss(teacher, teacher, 0.5).item() == pytest.approx(0.0, abs=1e-6)
    margins = [(s[0] - s[j]) - (t[0] - t[j]) for s, t in zip(scores, teacher, strict=True) for j in (1, 2)]
    assert margin_mse_loss(scores, teacher).item() == pytest.approx(
        sum(float(m) ** 2 for m in margins) / 4, abs=1e-5
    )


def test_weighted_and_standardised_scores_equal_their_definitions():
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(5, 8, generator=generator), torch.randn(9, 8, generator=generator)
    lengths, offsets, weights = (
        torch.tensor([2, 3]),
        torch.tensor([0, 4, 9]),
        torch.rand(5, generator=generator),
    )
    scores = maxsim_scores(queries, lengths, documents, torch.tensor([4, 5]), weights)
    for i, (q, w) in enumerate(zip(queries.split([2, 3]), weights.split([2, 3]), strict=True)):
        torch.testing.assert_close(scores[i], maxsim(q * w[:, None], documents, offsets) / w.sum())
    wide = torch.randn(3, 7, generator=generator, requires_grad=True)
    made = standardised(wide)
    torch.testing.assert_close(made.mean(-1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(made.std(-1), torch.ones(3))
    made[0, 0].backward()  # the spread has no gradient of its own
    expected = (torch.eye(7)[0] - 1 / 7) / wide[0].std().item()
    torch.testing.assert_close(wide.grad[0], expected)
    assert not standardised(torch.ones(1, 4)).any()


def test_query_weights_are_those_of_rare_tokens(model_dir, tmp_path):
    loss = RetrievalLoss(load_checkpoint(model_dir), config(model_dir, idf=True), tmp_path)
    loss.fit_idf(["d1 d2", "d1 d3", "d1 d4"])
    batch = Batch(["d1 d2 d1", "d1"], [["d1 d2"], ["d1 d3"]])
    texts = loss._texts(batch, 0)
    first, second = loss._query_weights(texts).split([len(ids) for ids in texts.tokens.ids[:2]])
    common, rare = math.sqrt(0.3), math.sqrt(math.log(4 / 2))  # 0.3 is the least of an IDF
    vocabulary = loss.tokenizers[0].tokenizer.get_vocab()
    own = [i for i, token in enumerate(texts.tokens.ids[0]) if token in (vocabulary["d1"], vocabulary["d2"])]
    known = torch.tensor([common, rare, common])
    mean = first[own] / known
    torch.testing.assert_close(mean, mean[:1].expand(3))
    assert first[own[1]] > first[own[0]]
    assert second.max() / second.min() >= 1


def test_topics_are_examples_with_the_same_words():
    rows = [
        Example(f"{topic} {i}", (f"about {topic} and more of {topic}",))
        for i in range(20)
        for topic in ("oak", "elm", "ash")
    ]
    topics = Topics(rows)
    found = topics.grown([0, 1], 12)  # of oak and of elm
    assert len(set(found)) == 12
    assert found[:2] == [0, 1]
    kinds = [rows[i].query.split()[0] for i in found[2:]]
    assert kinds == ["oak"] * 5 + ["elm"] * 5
    assert sorted(topics.grown([3], 60)) == list(range(60))  # more than are alike


def test_topics_of_examples_without_words():
    with pytest.raises(CorpusError, match="none of 3 examples has a word to tell its topic by"):
        Topics([Example("the", ("",))] * 3)
    some = Topics([Example("the", ("",)), Example("oak", ("an oak",)), Example("?", ("!",))])
    assert sorted(some.grown([0], 3)) == [0, 1, 2]
    assert some.grown([2], 1) == [2]


def test_batches_without_labels_ask_with_words_of_the_documents():
    rows = [Example(f"q{i}", (" ".join(f"w{i}_{j}" for j in range(30)),)) for i in range(40)]
    batch = next(batches([Source(rows, labelled=False)], size=40, n_negatives=0, seed=0))
    assert not batch.labelled
    spans = [(q, d[0]) for q, d in zip(batch.queries, batch.documents, strict=True) if q[0] == "w"]
    assert 8 < len(spans) < 32
    assert all(span in document and 3 <= len(span.split()) <= 12 for span, document in spans)


@pytest.mark.slow
def test_sources_without_labels_stand_beside_scores_in_the_data(model_dir, teacher_dir, data, tmp_path):
    changes = {"kl_weight": 1.0, "teacher_kl_weight": 1.0, "teacher": str(teacher_dir), "steps": 4}
    settings = config(model_dir, **changes, unlabelled=(f"{data / 'mined.jsonl.gz'}:0.1",))
    found = train_retrieval([(data / "scored.jsonl.gz", 0.1)], tmp_path / "o", tmp_path / "r", settings)
    assert math.isfinite(found["held_out_loss"])


def test_an_answer_is_never_its_own_negative():
    queries = ["a", "b", "a"]
    documents = ["one", "x", "two", "one", "three", "y"]  # positives in columns 0, 2, 4
    mask = same_text_mask(queries, documents, torch.tensor([0, 2, 4]))
    expected = torch.zeros(3, 6, dtype=torch.bool)
    expected[0, [3, 4]] = True  # its own text again, and the other answer to the same query
    expected[2, [0, 3]] = True
    assert torch.equal(mask, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("chunk_tokens", "room"), [(40, None), (10_000, None), (0, 40)])
def test_gradcache_gives_the_gradients_of_the_whole_batch(chunk_tokens, room, model_dir, data, tmp_path):
    """Asked for, or by the room that a device has."""
    rows = read_examples(data / "mined.jsonl.gz")[:8]
    batch = next(batches([Source(rows)], size=8, n_negatives=2, seed=0))
    found = []
    passes = []
    for tokens, fits in ((0, None), (chunk_tokens, room)):
        checkpoint = load_checkpoint(model_dir)
        loss = RetrievalLoss(checkpoint, config(model_dir, chunk_tokens=tokens), tmp_path)
        loss._fits = fits
        passes.append(0)
        checkpoint.model.register_forward_hook(lambda *_: passes.append(passes.pop() + 1))
        with torch.autocast("cpu", enabled=False):
            value, n_tokens = loss.gradients(batch, 0)
        found.append(
            (value, {n: p.grad for n, p in checkpoint.model.named_parameters() if p.grad is not None})
        )
        texts = loss._texts(batch, 0).tokens.ids
        assert n_tokens == sum(map(len, texts))
    (whole, expected), (pieces, own) = found
    assert passes[0] == 1
    assert passes[1] > 4 if 40 in (chunk_tokens, room) else passes[1] == 1
    torch.testing.assert_close(pieces, whole, atol=5e-3, rtol=5e-3)  # bfloat16, where the processor has it
    assert own.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max()
        torch.testing.assert_close(own[name], expected[name], atol=float(scale) * 0.05 + 1e-6, rtol=0)


@pytest.mark.slow
def test_layers_computed_anew_train_the_same_model(model_dir, data, tmp_path, monkeypatch):
    """Two steps with and without."""
    weights, made = [], []
    again = modernbert.checkpoint
    monkeypatch.setattr(
        modernbert, "checkpoint", lambda *given, **how: made.append(0) or again(*given, **how)
    )
    for anew in (False, True):
        out = tmp_path / str(anew)
        settings = config(model_dir, steps=2, warmup=0, recompute=anew)
        train_retrieval([(data / "mined.jsonl.gz", 1.0)], out / "out", out / "run", settings)
        weights.append(load_checkpoint(out / "out").model.state_dict())
        assert bool(made) is anew
    before = load_checkpoint(model_dir).model.state_dict()
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected)
        assert not torch.equal(expected, before[name])


def test_computing_layers_anew_is_refused_for_another_backbone(teacher_dir, data, tmp_path):
    sources = [(data / "mined.jsonl.gz", 1.0)]
    with pytest.raises(
        ArgumentError, match=r"recompute=True is for ModernBERT, and .* is none; leave it out"
    ):
        train_retrieval(sources, tmp_path / "out", tmp_path / "run", config(teacher_dir, recompute=True))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(model_dir, data, tmp_path):
    sources = [(data / "mined.jsonl.gz", 0.5)]
    settings = config(model_dir, steps=30, save_every=10)
    whole = train_retrieval(sources, tmp_path / "whole", tmp_path / "run1", settings)

    class KilledError(Exception):
        pass

    def dies(checkpoint):
        raise KilledError

    evaluated = config(model_dir, steps=30, save_every=10, eval_every=25)
    with pytest.raises(KilledError):
        train_retrieval(sources, tmp_path / "o", tmp_path / "run2", evaluated, evaluate=dies)
    resumed = train_retrieval(sources, tmp_path / "resumed", tmp_path / "run2", evaluated)
    assert resumed == whole  # the loss at the start was kept, not measured again in the middle
    assert Encoder.load(tmp_path / "resumed").fingerprint == Encoder.load(tmp_path / "whole").fingerprint


@pytest.mark.slow
def test_the_best_model_is_kept_and_the_run_stops_early(model_dir, data, tmp_path):
    scores = iter([0.3, 0.5, 0.4, 0.2, 0.9])
    seen = []

    def evaluation(checkpoint):
        seen.append(Encoder(checkpoint, name="x").fingerprint)
        checkpoint.model.train()
        return {"nDCG@10": next(scores)}

    result = train_retrieval(
        [(data / "mined.jsonl.gz", 1.0)],
        tmp_path / "out",
        tmp_path / "run",
        config(model_dir, steps=50, eval_every=5, patience=2),
        evaluate=evaluation,
    )
    assert len(seen) == 4  # 0.4 and 0.2 were no better than 0.5
    assert result["nDCG@10"] == 0.5
    assert Encoder.load(tmp_path / "out").fingerprint == seen[1]


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beir")
    rows = examples(40, seed=5, negatives=0)
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "text": r["pos"]}) + "\n" for i, r in enumerate(rows))
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": r["query"]}) + "\n" for i, r in enumerate(rows))
    )
    (folder / "qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(len(rows)))
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", ["colbert", "dense"])
def test_the_commands_train_a_model_that_finds_what_it_could_not(command, model_dir, data, beir, tmp_path):
    arguments = [
        "train", command, f"{data / 'mined.jsonl.gz'}:0.9", "--model", model_dir, "--out", tmp_path / "out",
        "--run", tmp_path / "run", "--steps", 150, "--batch-size", 16, "--document-lengths", "16,32", "--lr", 3e-3,
        "--embedding-lr", 3e-3, "--warmup", 10, "--temperature", 0.1, "--eval", beir, "--eval-every", 75,
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "best nDCG@10" in result.output
    sets = EvaluationSet.load(beir, "test")
    pooled = command == "dense"
    before = evaluate_exact(sets, Encoder.load(model_dir), pooled=pooled)["nDCG@10"]
    after = evaluate_exact(sets, Encoder.load(tmp_path / "out"), pooled=pooled)["nDCG@10"]
    assert after > before + 0.3


@pytest.mark.slow
def test_exact_evaluation_equals_the_searcher(model_dir, beir, tmp_path):
    from indexing import Index

    data = EvaluationSet.load(beir, "test")
    encoder = Encoder.load(model_dir)
    with Index.create(tmp_path / "index", encoder) as index:
        index.add(data.passages())
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        found = searcher.search_many(data.queries, k=40)
    run = {qid: {h.doc_id: h.score for h in hits} for qid, hits in found.items()}
    expected = evaluate(data.qrels, run)
    assert evaluate_exact(data, encoder) == pytest.approx(expected, abs=0.02)  # the index keeps float16


@pytest.mark.slow
def test_mined_negatives_are_wrong_and_close(model_dir, tmp_path):
    """Two answers to one query, and a text nearly as good as the positive, must not be negatives."""
    texts = {"a": "d1 d2 d3", "b": "d1 d2 d4", "c": "d5 d6 d7", "d": "d1 d9 d8"}
    rows = [
        Example("d1 d2 d3", (texts["a"],)),
        Example("d1 d2 d3", (texts["b"],)),
        Example("d5 d6", (texts["c"],)),
    ]
    rows.append(Example("d8 d9", (texts["d"],)))
    mined = mine(Encoder.load(model_dir), rows, tmp_path / "index", MiningConfig(2, 4, 1.0))
    assert [m.query for m in mined] == [r.query for r in rows]
    for before, after in zip(rows, mined, strict=True):
        assert after.documents[0] == before.documents[0]
        assert len(set(after.documents)) == len(after.documents)
    for example in mined[:2]:
        assert not {texts["a"], texts["b"]} & set(example.documents[1:])
    assert len(mined[2].documents) == 3
    strict = mine(Encoder.load(model_dir), rows, tmp_path / "index2", MiningConfig(2, 4, 0.01))
    assert all(len(m.documents) == 1 for m in strict)


def test_the_file_of_mined_negatives_is_opened_first_and_whole_or_not_there(
    model_dir, data, tmp_path, monkeypatch
):
    encoder = Encoder.load(model_dir)
    out = tmp_path / "new" / "mined.jsonl.gz"
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples(30, seed=3)))
    n, _ = mine_file(encoder, tmp_path / "few.jsonl", out, MiningConfig(depth=9))
    assert len(read_examples(out)) == n == 30
    before = out.read_bytes()

    def stops(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(retriever.mining, "mine", stops)
    with pytest.raises(KeyboardInterrupt):
        mine_file(encoder, tmp_path / "few.jsonl", out)
    assert out.read_bytes() == before
    assert [p.name for p in out.parent.iterdir()] == [out.name]

    def never(*arguments, **options):
        raise AssertionError("mined before the output was looked at")

    monkeypatch.setattr(retriever.mining, "mine", never)
    for path, message in (
        (tmp_path, "is a folder; pass a file"),
        (tmp_path / "few.jsonl" / "x", "lies under one"),
    ):
        with pytest.raises(ArgumentError, match=message):
            mine_file(encoder, tmp_path / "few.jsonl", path)


def test_batches_of_one_source_with_its_share(data):
    many = [Example(f"q{i}", (f"a{i}", f"n{i}")) for i in range(100)]
    few = [Example(f"r{i}", (f"b{i}",)) for i in range(40)]
    stream = batches([Source(many, 0.5), Source(few)], size=10, n_negatives=1, seed=0)
    epoch = [next(stream) for _ in range(9)]
    kinds = [{q[0] for q in batch.queries} for batch in epoch]
    assert sorted("".join(k) for k in kinds) == ["q"] * 5 + ["r"] * 4
    assert {len(row) for b in epoch if b.queries[0][0] == "q" for row in b.documents} == {2}
    again = batches([Source(many, 0.5), Source(few)], size=10, n_negatives=1, seed=0, start=4)
    assert [next(again) for _ in range(5)] == epoch[4:]
    assert [next(stream) for _ in range(5)] != epoch[:5]  # the next epoch is another order
    with pytest.raises(CorpusError, match="no source has 200 examples"):
        next(batches([Source(few)], size=200, n_negatives=0, seed=0))


def test_pylates_layout(tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"query_id": 1, "text": "who"}\n')
    (tmp_path / "documents.jsonl").write_text(
        '{"document_id": "x", "text": "he"}\n{"document_id": "y", "text": "she"}\n'
    )
    train = tmp_path / "train.jsonl"
    train.write_text('{"query_id": 1, "document_ids": ["x", "y"], "scores": [0.5, 2]}\n')
    assert read_examples(tmp_path) == [Example("who", ("she", "he"), (2.0, 0.5))]
    train.write_text('{"query_id": 1, "document_ids": ["x", "z"], "scores": [0.5, 2]}\n')
    with pytest.raises(CorpusError, match=r"train\.jsonl:1: 'z' is not in .*documents\.jsonl"):
        read_examples(tmp_path)
    (tmp_path / "documents.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"documents\.jsonl is missing"):
        read_examples(tmp_path)


def test_bad_input_is_one_clear_line(model_dir, data, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"query": "q1"}\n')
    with pytest.raises(CorpusError, match=r"bad\.jsonl:1 has no 'pos'"):
        read_examples(path)
    path.write_text('{"query": "q1", "pos": "d1", "negs": ["d2"], "scores": [1]}\n')
    with pytest.raises(CorpusError, match="1 scores for 2 documents"):
        read_examples(path)
    sources = [(data / "mined.jsonl.gz", 1.0)]
    for changes, message in {
        "similarity": ({"similarity": "cosine"}, "similarity='cosine'"),
        "teacher": ({"token_weight": 1.0}, "need a teacher"),
        "patience": ({"patience": 2}, "needs evaluations"),
        "scores": ({"kl_weight": 1.0}, "need examples with scores"),
        "topics": ({"topics": 17}, "topics=17 is more than the batch of 16"),
        "unlabelled": (
            {"unlabelled": ("x.jsonl",)},
            "unlabelled sources have no loss without teacher_kl_weight",
        ),
        "batch": ({"batch_size": 1}, "batch_size=1; pass batch_size >= 2"),
        "length": ({"document_lengths": (16, 0)}, "document_lengths=0; pass document_lengths >= 1"),
        "none": ({"document_lengths": ()}, "document_lengths is empty"),
        "idf": ({"similarity": "pooled", "idf": True}, "idf=True weighs tokens"),
    }.values():
        with pytest.raises(ArgumentError, match=message):
            train_retrieval(sources, tmp_path / "o", tmp_path / message[:4], config(model_dir, **changes))


def test_a_batch_carries_scores_only_where_all_examples_have_them():
    rows = [Example("a", ("x", "y"), (1.0, 0.5)), Example("b", ("z", "w"))]
    batch = next(batches([Source(rows)], size=2, n_negatives=1, seed=0))
    assert isinstance(batch, Batch)
    assert batch.scores is None
