"""What `latewood doctor` says of each kind of checkpoint."""

import pytest

from encoder import Encoder
from encoder.checkpoints.doctor import examine
from encoder.errors import CheckpointError
from tests.helpers.checkpoints import bert, modernbert, modules, pylate, write


def facts(report):
    return dict(report.facts)


def warned(report, words):
    return sum(words in warning for warning in report.warnings)


def test_facts_of_a_pylate_folder(tmp_path):
    pylate(tmp_path, query_length=24, document_length=300, attend_to_expansion_tokens=True)
    encoder = Encoder.load(tmp_path)
    found = facts(examine(tmp_path))
    assert found == {
        "folder": str(tmp_path),
        "layout": "PyLate",
        "architecture": "modernbert",
        "dimensions": "16",
        "head": "32 to 16",
        "layers": "4, 2 of them global",
        "hidden size": "32",
        "attention heads": "2",
        "positions": "512",
        "parameters": f"{encoder.n_parameters:,}",
        "vocabulary": f"{encoder.tokenizer.vocab_size} tokens, {encoder.tokenizer.vocab_size} embeddings",
        "query length": "24 tokens",
        "document length": "300 tokens",
        "query marker": f"'[Q] ' (id {encoder.tokenizer.query_marker[0]})",
        "document marker": f"'[D] ' (id {encoder.tokenizer.document_marker[0]})",
        "query expansion": "to 24 tokens with '[MASK]', attended to",
        "skiplist": "32 words, 32 token ids",
        "fingerprint": encoder.fingerprint,
    }


def test_lines_and_json(tmp_path):
    pylate(tmp_path)
    report = examine(tmp_path)
    lines = report.lines()
    assert len(lines) == len(report.facts) + len(report.warnings)
    assert "layout           PyLate" in lines
    assert lines[-1] == f"warning: {report.warnings[-1]}"
    assert report.to_json() == {"facts": facts(report), "warnings": list(report.warnings)}


@pytest.mark.slow
def test_the_bundled_model_has_no_trap():
    report = examine()
    assert facts(report)["fingerprint"] == Encoder.load().fingerprint
    assert not warned(report, "skiplist")
    assert not warned(report, "expan")


@pytest.mark.parametrize("where", ["folder", "card", "config"])
def test_gte_moderncolbert_is_known_by_any_of_its_names(tmp_path, where):
    folder = tmp_path / ("GTE-ModernColBERT-v1" if where == "folder" else "model")
    folder.mkdir()
    pylate(folder)
    if where == "card":
        (folder / "README.md").write_text("# lightonai/GTE-ModernColBERT-v1")
    if where == "config":
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace("{", '{"_name_or_path": "x/gte-moderncolbert",', 1))
    assert warned(examine(folder), "flash attention") == 1
    write(folder / "config_sentence_transformers.json", {"do_query_expansion": False})
    assert not warned(examine(folder), "flash attention")


@pytest.mark.slow
def test_an_ordinary_model_is_not_warned_of_flash_attention(tmp_path):
    pylate(tmp_path)
    assert not warned(examine(tmp_path), "flash attention")


def test_a_skiplist_is_a_hint_and_for_code_a_warning(tmp_path):
    pylate(tmp_path, bert)
    assert warned(examine(tmp_path), "for a corpus of code pass skiplist_words=()") == 1
    assert warned(examine(tmp_path, code=True), "hurts code search") == 1
    assert (
        warned(examine(tmp_path), '27 skiplist words are not in the vocabulary and skip nothing: " $ %') == 1
    )
    write(tmp_path / "config_sentence_transformers.json", {"skiplist_words": []})
    assert not warned(examine(tmp_path, code=True), "skiplist")


def test_lengths(tmp_path):
    pylate(tmp_path, document_length=100)
    assert warned(examine(tmp_path), "cut at 100 tokens, though the model has 512 positions") == 1
    assert warned(examine(tmp_path, document_length=400), "document_length=400 is beyond the 100 tokens") == 1
    report = examine(tmp_path, document_length=600)
    assert warned(report, "document_length=600 exceeds the model's 512 positions") == 1
    write(tmp_path / "config_sentence_transformers.json", {"document_length": 500, "query_length": 1000})
    assert not warned(examine(tmp_path), "cut at")
    assert warned(examine(tmp_path), "query_length=1000 exceeds the model's 512 positions") == 1


def test_expansion_beyond_the_local_window(tmp_path):
    pylate(tmp_path, query_length=150)
    assert warned(examine(tmp_path), "expanded to 150 tokens, past the local window of 64") == 1
    write(tmp_path / "config_sentence_transformers.json", {"query_length": 65})
    assert not warned(examine(tmp_path), "local window")


def test_a_single_vector_checkpoint(tmp_path):
    bert(tmp_path)
    modules(tmp_path, ("1_Pooling", "sentence_transformers.models.Pooling"))
    report = examine(tmp_path)
    assert facts(report)["architecture"] == "bert through transformers"
    assert facts(report)["head"] == "none; vectors are the backbone's last hidden state"
    assert (facts(report)["query marker"], facts(report)["query expansion"]) == ("none", "none")
    assert warned(report, "never trained for late interaction") == 1


def test_a_plain_backbone(tmp_path):
    modernbert(tmp_path)
    report = examine(tmp_path)
    assert facts(report)["layout"] == "plain backbone"
    assert warned(report, "no projection") == 1
    assert warned(report, "PyLate's defaults hold") == 1


def test_what_cannot_be_loaded_is_refused_as_by_the_encoder(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json|model\.safetensors"):
        examine(tmp_path)
