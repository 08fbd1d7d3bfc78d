"""The heads against transformers, on random weights far from their initial size."""

import pytest
import torch
from transformers import ModernBertForMaskedLM, ModernBertForSequenceClassification

from encoder import Encoder
from encoder.checkpoints.folder import read_json, write_json
from encoder.errors import CheckpointError
from encoder.model.config import EncoderConfig
from encoder.model.heads import Classifier, MaskedLanguageModel, load_heads, read_config, save_heads
from encoder.model.packing import pack
from encoder.training.configs import SIZES
from encoder.training.mlm import plain_tokenizer
from tests.helpers.checkpoints import byte_level, save_tokenizer

LENGTHS = [3, 150, 40]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, byte_level())
    return plain_tokenizer(folder)


def shape(tokenizer):
    return EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_layers=4, num_heads=2,
        max_positions=512, pad_id=0, cls_id=2, sep_id=3,
    )  # fmt: skip


@torch.no_grad()
def perturbed(model):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15 + (parameter.ndim == 1))
    return model


def texts(tokenizer):
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(5, tokenizer.vocab_size, (n,), generator=generator).tolist() for n in LENGTHS]


@torch.no_grad()
def test_masked_language_model_equals_transformers(tokenizer, tmp_path):
    model = perturbed(MaskedLanguageModel(shape(tokenizer)))
    save_heads(tmp_path, model, tokenizer, {})
    theirs, report = ModernBertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    ids = texts(tokenizer)
    own = model(pack(ids)).split(LENGTHS)
    for row, logits in zip(ids, own, strict=True):
        expected = theirs.eval()(input_ids=torch.tensor([row])).logits[0]
        assert expected.std() > 0.5
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    where = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    where[[1, 20, 160]] = True
    torch.testing.assert_close(model(pack(ids), where), torch.cat(own)[where])

    again = MaskedLanguageModel(shape(tokenizer))
    theirs.save_pretrained(tmp_path / "theirs")
    load_heads(tmp_path / "theirs", again)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_classifier_equals_transformers(pooling, tokenizer, tmp_path):
    model = perturbed(Classifier(shape(tokenizer), 3, pooling))
    names = {"id2label": {"0": "a", "1": "b", "2": "c"}, "classifier_pooling": pooling}
    save_heads(tmp_path, model, tokenizer, names)
    theirs, report = ModernBertForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.id2label[2] == "c"
    ids = texts(tokenizer)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor(LENGTHS)[:, None]
    expected = theirs.eval()(input_ids=padded, attention_mask=mask.long()).logits
    torch.testing.assert_close(model(pack(ids)), expected, atol=1e-4, rtol=1e-4)


def test_retrieval_reads_a_pretrained_folder(tokenizer, tmp_path):
    model = perturbed(MaskedLanguageModel(shape(tokenizer)))
    save_heads(tmp_path, model, tokenizer, {})
    encoder = Encoder.load(tmp_path, skiplist_words=())
    with torch.no_grad():
        hidden = model.model(pack([[2, 7, 8, 3]]))
        own = encoder.model(pack([[2, 7, 8, 3]]))
    torch.testing.assert_close(own, torch.nn.functional.normalize(hidden, dim=-1))


def test_heads_that_are_not_there_stay_as_they_were(tokenizer, tmp_path):
    """A classifier of three labels begins a task of two with its backbone and dense head, not its last layer."""
    three = perturbed(Classifier(shape(tokenizer), 3, "mean"))
    save_heads(tmp_path, three, tokenizer, {})
    two = Classifier(shape(tokenizer), 2, "mean")
    two.initialise(torch.Generator().manual_seed(0))
    before = two.classifier.weight.clone()
    load_heads(tmp_path, two)
    assert torch.equal(two.classifier.weight, before)
    assert torch.equal(two.head.dense.weight, three.head.dense.weight)
    assert torch.equal(two.model.layers[1].mlp.Wo.weight, three.model.layers[1].mlp.Wo.weight)
    masked = MaskedLanguageModel(shape(tokenizer))
    load_heads(tmp_path, masked)
    assert torch.equal(masked.head.norm.weight, three.head.norm.weight)
    with pytest.raises(CheckpointError, match="classifier_pooling='max'"):
        Classifier(shape(tokenizer), 2, "max")
    write_json(
        tmp_path / "config.json", read_json(tmp_path / "config.json") | {"classifier_activation": "relu"}
    )
    with pytest.raises(CheckpointError, match="relu"):
        read_config(tmp_path)


def test_megatron_init(tokenizer):
    wide = EncoderConfig(vocab_size=512, hidden_size=128, intermediate_size=192, num_layers=8, num_heads=2)
    model = MaskedLanguageModel(wide)
    model.initialise(generator=torch.Generator().manual_seed(0))
    cut = 0.02 * 0.8796  # the deviation of a normal cut at two sigma
    layer = model.model.layers[3]
    for weight in (layer.attn.Wqkv.weight, layer.mlp.Wi.weight, model.model.embeddings.tok_embeddings.weight):
        assert weight.std().item() == pytest.approx(cut, rel=0.03)
        assert weight.abs().max() <= 0.04
    for weight in (layer.attn.Wo.weight, layer.mlp.Wo.weight, model.head.dense.weight):
        assert weight.std().item() == pytest.approx(cut / 4, rel=0.03)  # sqrt(2 * 8) = 4
    assert layer.mlp_norm.weight.eq(1).all()
    assert model.decoder.bias.eq(0).all()


@pytest.mark.parametrize(("size", "expected"), [("base", 149_655_232), ("large", 395_881_664)])
def test_sizes_have_the_papers_parameters(size, expected):
    hidden, intermediate, layers, heads = SIZES[size]
    with torch.device("meta"):
        model = MaskedLanguageModel(
            EncoderConfig(
                hidden_size=hidden, intermediate_size=intermediate, num_layers=layers, num_heads=heads
            )
        )
    assert sum(p.numel() for p in model.parameters()) == expected
