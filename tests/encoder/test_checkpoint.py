"""Folders in and out: every layout against a plain computation, and every refusal."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, ModernBertModel

from encoder import Encoder
from encoder.checkpoints.loading import load_checkpoint, save_checkpoint
from encoder.checkpoints.places import resolve_folder
from encoder.errors import ArgumentError, CheckpointError
from tests.helpers.checkpoints import (
    PYLATE_DENSE,
    TEXTS,
    bert,
    dense,
    matrix,
    modernbert,
    modules,
    pylate,
    save_tokenizer,
    wordpiece,
    write,
)

ST_DENSE = "sentence_transformers.models.Dense"
NO_MARKERS = {"query_prefix": "", "document_prefix": "", "do_query_expansion": False, "skiplist_words": []}


def hidden_states(folder, encoder, texts, *, is_query=False):
    """Hidden states by transformers, one text at a time: a list of (tokens, hidden)."""
    model = AutoModel.from_pretrained(folder).eval()
    tokens = (encoder.tokenizer.queries if is_query else encoder.tokenizer.documents)(texts)
    model.resize_token_embeddings(encoder.tokenizer.vocab_size, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(
            encoder.model.state_dict()["backbone.embeddings.tok_embeddings.weight"]
        )
        return [
            model(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.tensor([[1] * n + [0] * (len(ids) - n)]),
            ).last_hidden_state[0]
            for ids, n in zip(tokens.ids, tokens.n_keys, strict=True)
        ]


def assert_vectors(out, expected, tolerance=2e-5):
    assert len(out) == len(expected)
    for i, rows in enumerate(expected):
        np.testing.assert_allclose(out[i], F.normalize(rows, dim=-1).numpy(), atol=tolerance)


def test_plain_modernbert_without_a_projection(tmp_path):
    modernbert(tmp_path)
    encoder = Encoder.load(tmp_path, skiplist_words=())
    assert encoder.dim == 32
    assert_vectors(encoder.encode_documents(TEXTS), hidden_states(tmp_path, encoder, TEXTS))
    assert encoder.document_length == 180  # PyLate's defaults where the folder says nothing


@pytest.mark.parametrize("where", ["a file", "the weights"])
def test_plain_modernbert_with_a_projection(tmp_path, where):
    folder = tmp_path / "model"
    folder.mkdir()
    modernbert(folder)
    weight = matrix(16, 32)
    projection = None
    states = hidden_states(folder, Encoder.load(folder, skiplist_words=()), TEXTS)
    if where == "a file":
        projection = tmp_path / "projection.safetensors"
        save_file({"linear.weight": weight}, projection)
    else:
        path = folder / "model.safetensors"
        save_file({**load_file(path), "linear.weight": weight}, path, metadata={"format": "pt"})
    encoder = Encoder.load(folder, projection=projection, skiplist_words=())
    assert encoder.dim == 16
    assert_vectors(encoder.encode_documents(TEXTS), [s @ weight.T for s in states])


def test_pylate_folder_with_one_dense(tmp_path):
    weight = pylate(tmp_path, query_length=12, document_length=20, skiplist_words=[",", "!"])
    encoder = Encoder.load(tmp_path)
    assert (encoder.query_length, encoder.document_length) == (12, 20)
    assert_vectors(
        encoder.encode_queries(TEXTS),
        [s @ weight.T for s in hidden_states(tmp_path, encoder, TEXTS, is_query=True)],
    )
    kept = encoder.tokenizer.documents(TEXTS).kept
    states = hidden_states(tmp_path, encoder, TEXTS)
    assert_vectors(
        encoder.encode_documents(TEXTS),
        [s[torch.tensor(k)] @ weight.T for s, k in zip(states, kept, strict=True)],
    )
    assert sum(map(sum, kept)) < sum(map(len, kept))


def test_several_dense_layers_with_bias_activation_and_residual(tmp_path):
    modernbert(tmp_path)
    w1, r1, b1 = matrix(64, 32, 1), matrix(64, 32, 2), torch.linspace(-1, 1, 64)
    w2, w3 = matrix(64, 64, 3), matrix(16, 64, 4)
    gelu, tanh = "torch.nn.modules.activation.GELU", "torch.nn.modules.activation.Tanh"
    first = {"linear.weight": w1, "linear.bias": b1, "residual.weight": r1}
    dense(tmp_path / "1_Dense", first, use_residual=True, activation_function=gelu)
    dense(
        tmp_path / "2_Dense", {"linear.weight": w2}, use_residual=True, activation_function=tanh, pickled=True
    )
    dense(tmp_path / "4_Dense", {"linear.weight": w3})
    # sentence-transformers 6 names modules by another path and has more of them; keys of its own too.
    modules(
        tmp_path,
        ("1_Dense", PYLATE_DENSE),
        ("2_Dense", "sentence_transformers.base.modules.dense.Dense"),
        ("3_Normalize", "sentence_transformers.models.Normalize"),
        ("4_Dense", ST_DENSE),
    )
    write(tmp_path / "config_sentence_transformers.json", NO_MARKERS)
    encoder = Encoder.load(tmp_path)

    def head(x):
        x = F.gelu(x @ w1.T + b1) + x @ r1.T
        x = torch.tanh(x @ w2.T) + x
        return x @ w3.T

    assert encoder.dim == 16
    assert_vectors(
        encoder.encode_documents(TEXTS), [head(s) for s in hidden_states(tmp_path, encoder, TEXTS)]
    )


def test_expansion_vectors_are_transformers_own(tmp_path):
    """Finite, not zero and equal, also where a query's end is out of sight in local layers (length 150)."""
    for length in (32, 150):
        folder = tmp_path / str(length)
        folder.mkdir()
        weight = pylate(folder, query_length=length)
        encoder = Encoder.load(folder)
        out = encoder.encode_queries(TEXTS)
        assert out.lengths.tolist() == [length] * len(TEXTS)
        assert np.isfinite(out.vectors).all()
        np.testing.assert_allclose(np.linalg.norm(out.vectors, axis=1), 1.0, atol=1e-5)
        states = hidden_states(folder, encoder, TEXTS, is_query=True)
        assert_vectors(out, [s @ weight.T for s in states])


@pytest.mark.parametrize("attend", [False, True])
def test_attention_to_expansion_tokens_follows_the_setting(tmp_path, attend):
    pylate(tmp_path, attend_to_expansion_tokens=attend)
    short, long = (Encoder.load(tmp_path, query_length=n).encode_queries(["the old oak"]) for n in (16, 24))
    difference = np.abs(short[0][:6] - long[0][:6]).max()
    assert difference > 1e-3 if attend else difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [modernbert, bert])
def test_batch_composition_changes_no_vector(tmp_path, backbone):
    pylate(tmp_path, backbone)
    encoder = Encoder.load(tmp_path)
    texts = [*TEXTS, "late wood " * 60, "leaf " * 25]
    for encode in (encoder.encode_documents, encoder.encode_queries):
        together = encode(texts * 2)
        for batch_tokens in (1, 90):
            np.testing.assert_allclose(
                encode(texts * 2, batch_tokens=batch_tokens).vectors, together.vectors, atol=1e-5
            )


@pytest.mark.parametrize("backbone", [modernbert, bert])
def test_saved_and_loaded_again_it_is_the_same(tmp_path, backbone):
    pylate(tmp_path, backbone, query_length=12, prompts={"query": "[Q] the ", "document": "a "})
    encoder = Encoder.load(tmp_path, document_length=40)
    encoder.save(tmp_path / "again")
    again = Encoder.load(tmp_path / "again")
    assert again.fingerprint == encoder.fingerprint
    assert again.tokenizer.settings == encoder.tokenizer.settings
    assert again.tokenizer.settings.query_prompt == "the "
    np.testing.assert_array_equal(again.encode_queries(TEXTS).vectors, encoder.encode_queries(TEXTS).vectors)
    np.testing.assert_array_equal(
        again.encode_documents(TEXTS).vectors, encoder.encode_documents(TEXTS).vectors
    )


def test_half_precision_weights_are_read_as_they_were_rounded(tmp_path):
    weight = pylate(tmp_path)
    Encoder.load(tmp_path).save(tmp_path / "half", dtype=torch.float16)
    again = load_checkpoint(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    assert torch.equal(again.model.head[0].linear.weight, weight.half().float())


@pytest.mark.parametrize("backbone", [modernbert, bert])
def test_transformers_reads_what_we_save(tmp_path, backbone):
    pylate(tmp_path, backbone, **NO_MARKERS)
    encoder = Encoder.load(tmp_path)
    encoder.save(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    model = AutoModel.from_pretrained(tmp_path / "saved").eval()
    weight = encoder.model.head[0].linear.weight.detach()
    for text in TEXTS:
        inputs = tokenizer(text.strip(), return_tensors="pt")
        with torch.no_grad():
            rows = F.normalize(model(**inputs).last_hidden_state[0] @ weight.T, dim=-1)
        np.testing.assert_allclose(encoder.encode_documents([text])[0], rows.numpy(), atol=2e-5)
    assert (tokenizer.pad_token, tokenizer.mask_token, tokenizer.unk_token) == ("[PAD]", "[MASK]", "[UNK]")


def test_saved_files_are_pylates(tmp_path):
    """Class names and keys that PyLate 1.6 and sentence-transformers 5 and 6 were seen to load."""
    pylate(tmp_path)
    Encoder.load(tmp_path).save(tmp_path / "saved")
    read = lambda name: json.loads((tmp_path / "saved" / name).read_text())  # noqa: E731
    assert [m["type"] for m in read("modules.json")] == [
        "sentence_transformers.models.Transformer",
        PYLATE_DENSE,
    ]
    assert read("1_Dense/config.json") == {
        "in_features": 32,
        "out_features": 16,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    }
    settings = read("config_sentence_transformers.json")
    assert settings["model_type"] == "ColBERT"
    assert (settings["query_prefix"], settings["document_prefix"]) == ("[Q] ", "[D] ")
    assert settings["prompts"] == {"query": "", "document": ""}
    assert "expansion_length" not in settings


def test_markers_grow_the_embeddings_by_their_mean(tmp_path):
    model = modernbert(tmp_path)
    old = model.get_input_embeddings().weight.detach()
    checkpoint = load_checkpoint(tmp_path)
    grown = checkpoint.model.backbone.embeddings.tok_embeddings.weight
    assert len(grown) == len(old) + 2 == checkpoint.model.backbone.config.vocab_size
    assert torch.equal(grown[: len(old)], old)
    torch.testing.assert_close(grown[len(old) :], old.mean(0).expand(2, -1))


def test_embeddings_with_room_for_the_markers_do_not_grow(tmp_path):
    modernbert(tmp_path, vocab_size=500)
    assert load_checkpoint(tmp_path).model.backbone.config.vocab_size == 500


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_weights(tmp_path, kind):
    pylate(tmp_path)
    before = Encoder.load(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = sorted(load_file(path).items())
    path.unlink()
    name = (
        "model-0000{}-of-00002.safetensors" if kind == "safetensors" else "pytorch_model-0000{}-of-00002.bin"
    )
    halves = {name.format(1): dict(weights[::2]), name.format(2): dict(weights[1::2])}
    for file, half in halves.items():
        save_file(half, tmp_path / file) if kind == "safetensors" else torch.save(half, tmp_path / file)
    index = "model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json"
    write(tmp_path / index, {"weight_map": {key: file for file, half in halves.items() for key in half}})
    assert Encoder.load(tmp_path).fingerprint == before.fingerprint


def test_pickled_weights_are_read_without_code(tmp_path):
    pylate(tmp_path)
    before = Encoder.load(tmp_path).fingerprint
    path = tmp_path / "model.safetensors"
    torch.save(load_file(path), tmp_path / "pytorch_model.bin")
    path.unlink()
    assert Encoder.load(tmp_path).fingerprint == before


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("a pickle from a model folder was run",))


@pytest.mark.parametrize("place", ["pytorch_model.bin", "1_Dense/pytorch_model.bin"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, place):
    pylate(tmp_path)
    path = tmp_path / place
    path.with_name("model.safetensors").unlink()
    with path.open("wb") as file:
        pickle.dump({"linear.weight": Malicious()}, file)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load_checkpoint(tmp_path)
    torch.save({"linear.weight": Malicious()}, path)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load_checkpoint(tmp_path)


def test_explicit_arguments_go_before_the_folder_and_the_folder_before_defaults(tmp_path):
    pylate(tmp_path, query_length=20, skiplist_words=["the"], query_prefix="[unused0]")
    settings = Encoder.load(tmp_path, query_length=10).tokenizer.settings
    assert (settings.query_length, settings.document_length) == (10, 180)
    assert (settings.query_prefix, settings.document_prefix) == ("[unused0]", "[D] ")
    assert settings.skiplist_words == ("the",)
    assert Encoder.load(tmp_path, skiplist_words=()).tokenizer.skiplist == frozenset()


@pytest.mark.parametrize(
    ("prompts", "found"),
    [
        ({"query": "ask: ", "document": "read: "}, ("ask: ", "read: ")),
        ({"query": "[Q] ask: ", "passage": "[D] read: "}, ("ask: ", "read: ")),
        ({"other": "say: ", "default_prompt_name": "other"}, ("say: ", "say: ")),
        ({}, ("", "")),
    ],
)
def test_prompts(tmp_path, prompts, found):
    default = prompts.pop("default_prompt_name", None)
    pylate(tmp_path, prompts=prompts, default_prompt_name=default)
    settings = load_checkpoint(tmp_path).tokenizer.settings
    assert (settings.query_prompt, settings.document_prompt) == found


def test_a_transformer_in_a_folder_of_its_own(tmp_path):
    pylate(tmp_path)
    before = Encoder.load(tmp_path).fingerprint
    inner = tmp_path / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.move(tmp_path / name, inner / name)
    entries = json.loads((tmp_path / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    write(tmp_path / "modules.json", entries)
    assert Encoder.load(tmp_path).fingerprint == before


# --- Stanford ColBERT and sentence-transformers 6, around our own ModernBERT -------------------------


def stanford(folder, backbone, **metadata):
    """A root folder with `linear.weight` among its weights, backbone keys under `bert.`."""
    backbone(folder)
    path = folder / "model.safetensors"
    weights = {f"bert.{key}": value for key, value in load_file(path).items()}
    save_file({**weights, "linear.weight": matrix(16, 32)}, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", {**config, "architectures": ["HF_ColBERT"]})
    write(folder / "artifact.metadata", metadata)


@pytest.mark.parametrize("backbone", [modernbert, bert])
def test_stanford_folder(tmp_path, backbone):
    (tmp_path / "pylate").mkdir()
    (tmp_path / "stanford").mkdir()
    settings = {"query_prefix": "[unused0]", "document_prefix": "[unused1]", "query_length": 20}
    pylate(tmp_path / "pylate", backbone, **settings, document_length=60, attend_to_expansion_tokens=True)
    stanford(
        tmp_path / "stanford",
        backbone,
        query_token_id="[unused0]",
        doc_token_id="[unused1]",
        query_maxlen=20,
        doc_maxlen=60,
        mask_punctuation=True,
        attend_to_mask_tokens=True,
        nranks=4,
    )
    ours, theirs = Encoder.load(tmp_path / "stanford"), Encoder.load(tmp_path / "pylate")
    assert ours.tokenizer.settings == theirs.tokenizer.settings
    for kind in ("encode_queries", "encode_documents"):
        np.testing.assert_allclose(
            getattr(ours, kind)(TEXTS).vectors, getattr(theirs, kind)(TEXTS).vectors, atol=1e-6
        )
    ours.save(tmp_path / "saved")
    assert Encoder.load(tmp_path / "saved").fingerprint == ours.fingerprint


def test_stanford_defaults(tmp_path):
    stanford(tmp_path, modernbert, mask_punctuation=False)
    settings = load_checkpoint(tmp_path).tokenizer.settings
    assert (settings.query_prefix, settings.document_prefix) == ("[unused0]", "[unused1]")
    assert (settings.query_length, settings.document_length, settings.skiplist_words) == (32, 180, ())
    (tmp_path / "artifact.metadata").unlink()
    assert "," in load_checkpoint(tmp_path).tokenizer.settings.skiplist_words


def multi_vector(folder, expansion, *, mask=None, sbert=None, prompts=None):
    """What MultiVectorEncoder.save_pretrained of sentence-transformers 6.2 writes."""
    pylate(folder)
    base = "sentence_transformers.base.modules"
    modules(
        folder,
        ("1_Dense", f"{base}.dense.Dense"),
        (
            "2_MultiVectorMask",
            "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
        ),
        ("3_Normalize", f"{base}.normalize.Normalize"),
    )
    write(
        folder / "config_sentence_transformers.json",
        {"model_type": "MultiVectorEncoder", "prompts": prompts or {}, "default_prompt_name": None},
    )
    own = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    write(folder / "sentence_bert_config.json", own | {"query_expansion": expansion} | (sbert or {}))
    (folder / "2_MultiVectorMask").mkdir()
    default = {"skiplist_words": [","], "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    write(folder / "2_MultiVectorMask" / "config.json", default | (mask or {}))


def test_sentence_transformers_6_folder(tmp_path):
    expansion = {"strategy": "fixed", "attend": True, "token": "[unused0]", "length": 24}
    tokenizer = wordpiece()
    tokenizer.add_special_tokens(["[Q] "])
    multi_vector(
        tmp_path, expansion, sbert={"document_length": 99}, prompts={"query": "[Q] ask: ", "document": "d: "}
    )
    modernbert(tmp_path, tokenizer=tokenizer)
    late = load_checkpoint(tmp_path).tokenizer
    settings = late.settings
    # A prompt that begins with an added token is a marker and the words after it; any other is words.
    assert (settings.query_prefix, settings.query_prompt) == ("[Q] ", "ask: ")
    assert (settings.document_prefix, settings.document_prompt) == ("", "d: ")
    assert (settings.query_length, settings.document_length) == (24, 99)
    assert (settings.do_query_expansion, settings.attend_to_expansion_tokens) == (True, True)
    assert settings.skiplist_words == (",",)
    expected = tokenizer.encode("[Q] ask: oak").ids
    assert late.queries(["oak"]).ids == [
        expected + [tokenizer.token_to_id("[unused0]")] * (24 - len(expected))
    ]
    assert late.documents(["oak"]).ids == [tokenizer.encode("d: oak").ids]


def test_sentence_transformers_6_expansion_at_least_and_not_at_all(tmp_path):
    (tmp_path / "min").mkdir()
    (tmp_path / "off").mkdir()
    multi_vector(tmp_path / "min", {"strategy": "min", "length": 24})
    settings = load_checkpoint(tmp_path / "min").tokenizer.settings
    # Neither length is set: the tokenizer's model_max_length holds.
    assert (settings.query_length, settings.expansion_length, settings.document_length) == (256, 24, 256)
    Encoder.load(tmp_path / "min").save(tmp_path / "saved")
    assert load_checkpoint(tmp_path / "saved").tokenizer.settings == settings
    multi_vector(tmp_path / "off", None, sbert={"query_length": 40}, mask={"skiplist_words": []})
    settings = load_checkpoint(tmp_path / "off").tokenizer.settings
    assert (settings.query_length, settings.do_query_expansion, settings.skiplist_words) == (40, False, ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expansion": {"strategy": "most", "length": 3}}, r"sentence_bert_config.json: .*strategy='most'"),
        ({"expansion": {"strategy": "fixed"}}, r"sentence_bert_config.json: query_expansion lacks 'length'"),
        (
            {"expansion": {"strategy": "fixed", "length": True}},
            r"query_length=True, expected a number of tokens",
        ),
        ({"expansion": {"strategy": "fixed", "length": 9, "shape": 1}}, r"unknown keys \['shape'\]"),
        ({"expansion": 32}, "query_expansion is no object"),
        (
            {"mask": {"skiplist_tasks": ["query", "document"]}},
            r"2_MultiVectorMask/config.json: skiplist_tasks=",
        ),
        ({"mask": {"keep_only_token_ids": [5]}}, r"2_MultiVectorMask/config.json: keep_only_token_ids"),
    ],
)
def test_unreadable_sentence_transformers_6_settings_are_refused(tmp_path, changes, message):
    multi_vector(tmp_path, **{"expansion": {"strategy": "fixed", "length": 24}, **changes})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


# --- Refusals: the file and the key ------------------------------------------------------------------


def edit(path, **changes):
    write(path, {**json.loads(path.read_text()), **changes})


def drop(folder, key):
    path = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != key}, path)


def set_weight(folder, key, value):
    path = folder / "model.safetensors"
    save_file({**load_file(path), key: value}, path)


MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"

BROKEN = {
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "neither model.safetensors nor pytorch_model.bin",
    ),
    "torn weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 9),
        r"model\.safetensors cannot be read",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json holds a list"),
    "config lacks a key": (
        lambda f: write(f / "config.json", {"model_type": "modernbert"}),
        r"config\.json .*rope_parameters",
    ),
    "a weight is missing": (lambda f: drop(f, "final_norm.weight"), r"lack 'final_norm\.weight'"),
    "a weight is unknown": (lambda f: set_weight(f, "layers.9.x", torch.ones(2)), r"unknown 'layers\.9\.x'"),
    "a weight has another shape": (
        lambda f: set_weight(f, "final_norm.weight", torch.ones(5)),
        r"'final_norm\.weight' has shape \(5,\).*\(32,\)",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer\.json cannot be read"),
    "modules are no list": (lambda f: (f / "modules.json").write_text("{}"), r"modules\.json holds a dict"),
    "a module without a path": (
        lambda f: write(f / "modules.json", [{"type": "x"}]),
        r"modules\.json.*'path'",
    ),
    "an unknown module": (
        lambda f: modules(f, ("1_Dense", "sentence_transformers.models.LSTM")),
        r"modules\.json: type='sentence_transformers\.models\.LSTM'",
    ),
    "code from the folder": (
        lambda f: modules(f, ("1_Dense", "custom.Dense")),
        r"modules\.json: type='custom\.Dense'",
    ),
    "a module out of the folder": (lambda f: modules(f, ("../x", PYLATE_DENSE)), r"path='\.\./x' leaves"),
    "two transformers": (
        lambda f: modules(f, ("", "sentence_transformers.models.Transformer")),
        r"modules\.json .*one Transformer",
    ),
    "a dense without weights": (
        lambda f: (f / "1_Dense/model.safetensors").unlink(),
        r"1_Dense holds neither",
    ),
    "a dense without config": (
        lambda f: (f / "1_Dense/config.json").unlink(),
        r"1_Dense/config\.json is missing",
    ),
    "a dense of other widths": (
        lambda f: edit(f / "1_Dense/config.json", out_features=17),
        r"1_Dense/config\.json says out_features=17, its weights have 16",
    ),
    "a dense without its bias": (
        lambda f: edit(f / "1_Dense/config.json", bias=True),
        r"1_Dense/config\.json says bias=True, its weights have False",
    ),
    "a dense without its residual": (
        lambda f: edit(f / "1_Dense/config.json", use_residual=True),
        r"1_Dense: weights lack 'residual\.weight'",
    ),
    "an activation by an unknown name": (
        lambda f: edit(f / "1_Dense/config.json", activation_function="os.system"),
        r"1_Dense/config\.json: activation_function='os\.system'",
    ),
    "a dense that does not fit": (
        lambda f: (shutil.rmtree(f / "1_Dense"), dense(f / "1_Dense", {"linear.weight": matrix(8, 31)})),
        "in_features=31, what is before gives 32",
    ),
    "no linear.weight": (
        lambda f: save_file({"weight": torch.ones(2, 2)}, f / "1_Dense/model.safetensors"),
        r"1_Dense lacks a matrix 'linear\.weight'",
    ),
    "a length of text": (
        lambda f: edit(f / "config_sentence_transformers.json", query_length="32"),
        r"config_sentence_transformers\.json: query_length='32', expected a number of tokens",
    ),
    "a flag of text": (
        lambda f: edit(f / "config_sentence_transformers.json", do_query_expansion="no"),
        "do_query_expansion='no', expected true or false",
    ),
    "a skiplist of numbers": (
        lambda f: edit(f / "config_sentence_transformers.json", skiplist_words=[1]),
        r"skiplist_words=\[1\], expected a list of texts",
    ),
    "a prompt of numbers": (
        lambda f: edit(f / "config_sentence_transformers.json", prompts={"query": 1}),
        r"config_sentence_transformers\.json: prompts=",
    ),
    "no modules.json beside a dense": (
        lambda f: ((f / "modules.json").unlink(), (f / "config_sentence_transformers.json").unlink()),
        r"modules\.json is missing, though 1_Dense is there",
    ),
    "no modules.json beside settings": (
        lambda f: ((f / "modules.json").unlink(), shutil.rmtree(f / "1_Dense")),
        r"modules\.json is missing, though config_sentence_transformers\.json is there",
    ),
    "a module that is not there": (
        lambda f: shutil.rmtree(f / "1_Dense"),
        r"modules\.json: path='1_Dense' is not there",
    ),
    "a mask that is not there": (
        lambda f: modules(f, ("1_Dense", PYLATE_DENSE), ("2_Mask", MASK)),
        r"modules\.json: path='2_Mask' is not there",
    ),
    "a mask without its words": (
        lambda f: (modules(f, ("1_Dense", PYLATE_DENSE), ("2_Mask", MASK)), (f / "2_Mask").mkdir()),
        r"2_Mask/config\.json is missing",
    ),
    "a dense that no module names": (lambda f: modules(f), r"modules\.json does not name 1_Dense"),
    "NaN in the backbone": (
        lambda f: set_weight(f, "final_norm.weight", torch.full((32,), torch.nan)),
        r"model\.safetensors: 'final_norm\.weight' holds NaN or infinite values",
    ),
    "infinity in half precision": (
        lambda f: set_weight(f, "final_norm.weight", torch.tensor([-torch.inf, *[1.0] * 31]).half()),
        r"model\.safetensors: 'final_norm\.weight' holds NaN or infinite values",
    ),
    "NaN in a pickle": (
        lambda f: (
            (f / "1_Dense/model.safetensors").unlink(),
            torch.save({"linear.weight": torch.full((16, 32), torch.nan)}, f / "1_Dense/pytorch_model.bin"),
        ),
        r"1_Dense/pytorch_model\.bin: 'linear\.weight' holds NaN or infinite values",
    ),
    "an index without a map": (
        lambda f: ((f / "model.safetensors").unlink(), write(f / "model.safetensors.index.json", {})),
        r"model\.safetensors\.index\.json lacks 'weight_map'",
    ),
    "an index into another folder": (
        lambda f: (
            (f / "model.safetensors").unlink(),
            write(f / "model.safetensors.index.json", {"weight_map": {"x": "../../etc/passwd"}}),
        ),
        r"/passwd cannot be read",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_by_file_and_key(tmp_path, case):
    pylate(tmp_path, query_length=32)
    breaking, message = BROKEN[case]
    breaking(tmp_path)
    with pytest.raises(CheckpointError, match=message) as refusal:
        load_checkpoint(tmp_path)
    assert "\n" not in str(refusal.value)


def test_other_arguments_are_refused(tmp_path):
    pylate(tmp_path)
    with pytest.raises(ArgumentError, match=r"\['length'\] are no tokenizer settings; known: .*query_length"):
        load_checkpoint(tmp_path, settings={"length": 5})
    with pytest.raises(ArgumentError, match=r"document_length=600 exceeds the model's 512 positions"):
        Encoder.load(tmp_path, document_length=600)
    (tmp_path / "p.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"p\.safetensors cannot be read"):
        load_checkpoint(tmp_path, projection=tmp_path / "p.safetensors")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    pylate(tmp_path / "whole")
    checkpoint = load_checkpoint(tmp_path / "whole")
    with torch.no_grad():
        checkpoint.model.head[0].linear.weight[0, 0] = 70_000.0  # beyond float16
    save_checkpoint(tmp_path / "fp32", checkpoint)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: 'linear\.weight' holds NaN or infinite"):
        save_checkpoint(tmp_path / "fp16", checkpoint, dtype=torch.float16)


# --- Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such-folder", "./a/b", "~/none", "a/b/c"])
def test_a_name_that_is_neither_folder_nor_hub_name_is_refused(name):
    with pytest.raises(CheckpointError, match="is no folder and no hub name"):
        resolve_folder(name)


def test_a_revision_belongs_to_a_hub_name(tmp_path):
    for name in (tmp_path, "bundled"):
        with pytest.raises(ArgumentError, match="revision='v2' is of a hub name"):
            resolve_folder(name, "v2")


def test_a_hub_name_without_a_network_says_what_to_do(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name, **options):
        raise LocalEntryNotFoundError("no network\nand nothing cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        CheckpointError, match=r"check the name and the network.*hf download some/model --local-dir"
    ):
        Encoder.load("some/model")


@pytest.mark.parametrize(("pickled", "calls"), [(False, 1), (True, 2)])
def test_a_hub_name_is_downloaded_with_pickles_only_where_there_is_nothing_else(
    tmp_path, monkeypatch, pickled, calls
):
    import huggingface_hub

    pylate(tmp_path)
    if pickled:
        weights = load_file(tmp_path / "1_Dense" / "model.safetensors")
        (tmp_path / "1_Dense" / "model.safetensors").unlink()
        torch.save(weights, tmp_path / "1_Dense" / "pytorch_model.bin")
    asked = []

    def snapshot(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, "*.bin" in allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    encoder = Encoder.load("some/model", revision="v2")
    assert asked == [("some/model", "v2", False), ("some/model", "v2", True)][:calls]
    assert (encoder.name, encoder.load_arguments["revision"]) == ("some/model", "v2")


def test_a_mask_token_is_found_in_either_file_before_an_end_of_sequence(tmp_path):
    pylate(tmp_path)
    save_tokenizer(tmp_path, wordpiece())
    modernbert(tmp_path, tokenizer=wordpiece())
    write(tmp_path / "tokenizer_config.json", {"eos_token": "[SEP]"})
    assert load_checkpoint(tmp_path).tokenizer.expansion_id == wordpiece().token_to_id("[SEP]")
    write(tmp_path / "special_tokens_map.json", {"mask_token": {"content": "[MASK]"}})
    assert load_checkpoint(tmp_path).tokenizer.expansion_id == wordpiece().token_to_id("[MASK]")


def test_the_oracle_reads_the_same_folder(tmp_path):
    """Guards the comparisons above: the folder is an ordinary one to transformers."""
    assert isinstance(modernbert(tmp_path), ModernBertModel)
    assert isinstance(AutoModel.from_pretrained(tmp_path), ModernBertModel)
