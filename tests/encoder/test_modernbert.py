"""Parity with transformers on seeded, perturbed weights: no published weights are at hand offline."""

import json

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertModel

from encoder.checkpoints.loading import load_backbone
from encoder.errors import CheckpointError
from encoder.model.config import EncoderConfig
from encoder.model.modernbert import ModernBert
from encoder.model.packing import pack

LENGTHS = [1, 5, 64, 65, 129, 513, 2048]
TOLERANCE = 2e-5  # fp32, absolute


def perturb(model, scale=3.0, seed=0):
    """Matrices about three times their start, norms off one: attention that is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def oracle(layers=4, **changes):
    """A transformers model with base-shaped layers: two global, two local."""
    torch.manual_seed(0)
    shape = {"vocab_size": 2000, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1}
    config = ModernBertConfig(num_hidden_layers=layers, eos_token_id=2, **{**shape, **changes})
    config._attn_implementation = "sdpa"
    return perturb(ModernBertModel(config))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The oracle and ours, ours read from the folder the oracle saved."""
    folder = tmp_path_factory.mktemp("base")
    theirs = oracle()
    theirs.save_pretrained(folder)
    return theirs, load_backbone(folder)


def random_ids(length, seed=0):
    return torch.randint(3, 2000, (length,), generator=torch.Generator().manual_seed(seed + length)).tolist()


def their_states(model, sequences):
    """Their hidden states of a padded batch, the padding taken out again: (total_tokens, hidden)."""
    width = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return hidden[mask.bool()]


def our_states(model, sequences):
    with torch.no_grad():
        return model(pack(sequences))


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
def test_parity_at_one_length(base, length):
    theirs, ours = base
    ids = [random_ids(length)]
    assert (their_states(theirs, ids) - our_states(ours, ids)).abs().max() <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [[7, 65, 1, 300], [129, 129, 129, 5], [700, 64, 513]])
def test_parity_in_a_mixed_batch_with_padding(base, lengths):
    theirs, ours = base
    ids = [random_ids(n, seed=i) for i, n in enumerate(lengths)]
    assert (their_states(theirs, ids) - our_states(ours, ids)).abs().max() <= TOLERANCE


@pytest.mark.slow
def test_the_perturbed_model_is_far_from_the_untouched_one(base):
    """Guards the parity tests themselves: perturbing must change the numbers they compare."""
    plain = oracle()
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.ndim > 1:
                parameter.div_(3.0)
    ids = [random_ids(65)]
    assert (their_states(plain, ids) - their_states(base[0], ids)).abs().max() > 0.1


def test_local_layers_see_no_further_than_the_window():
    """A change of one token reaches 64 positions through one local layer, and not the 65th."""
    config = EncoderConfig(
        vocab_size=100, hidden_size=64, intermediate_size=64, num_layers=1, num_heads=1,
        layer_types=("sliding_attention",),
    )  # fmt: skip
    model = ModernBert(config)
    model.initialise(std=0.3, generator=torch.Generator().manual_seed(0))
    for length in (200, 600):  # one dense product; chunks
        ids = [5] * length
        changed = ids.copy()
        changed[100] = 6
        difference = (our_states(model, [ids]) - our_states(model, [changed])).abs().amax(1)
        reached = difference.nonzero().flatten().tolist()
        assert (min(reached), max(reached)) == (36, 164)


def test_both_configuration_forms_read_alike():
    new = ModernBertConfig(num_hidden_layers=6).to_dict()
    old = {k: v for k, v in new.items() if k not in ("rope_parameters", "layer_types")}
    old |= {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0, "global_attn_every_n_layers": 3}
    assert EncoderConfig.from_hf(old) == EncoderConfig.from_hf(new)


@pytest.mark.slow
def test_thetas_come_from_the_configuration(tmp_path):
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 80_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 160_000.0},
    }
    theirs = oracle(rope_parameters=rope)
    theirs.save_pretrained(tmp_path)
    ours = load_backbone(tmp_path)
    assert (ours.config.global_rope_theta, ours.config.local_rope_theta) == (80_000.0, 160_000.0)
    ids = [random_ids(300)]
    assert (their_states(theirs, ids) - our_states(ours, ids)).abs().max() <= TOLERANCE


@pytest.mark.slow
def test_older_configuration_form_has_parity(base, tmp_path):
    theirs, _ = base
    theirs.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["rope_parameters"], raw["layer_types"]
    raw |= {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0, "global_attn_every_n_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    ids = [random_ids(200)]
    assert (their_states(theirs, ids) - our_states(load_backbone(tmp_path), ids)).abs().max() <= TOLERANCE


@pytest.mark.slow
def test_model_prefix_and_mlm_head_in_the_state_dict(tmp_path):
    torch.manual_seed(0)
    config = ModernBertConfig(num_hidden_layers=2, vocab_size=2000, pad_token_id=0)
    theirs = perturb(ModernBertForMaskedLM(config))
    theirs.save_pretrained(tmp_path)  # keys start with "model.", a head beside them
    ids = [random_ids(70)]
    difference = their_states(theirs.model, ids) - our_states(load_backbone(tmp_path), ids)
    assert difference.abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "bert"}, "model_type='bert'"),
        ({"rope_parameters": None}, "neither"),
        ({"hidden_activation": "relu"}, "hidden_activation='relu'"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "sliding_attention"),
        ({"num_attention_heads": 7}, "num_attention_heads=7"),
    ],
)
def test_other_configurations_are_refused(change, word):
    with pytest.raises(CheckpointError, match=word):
        EncoderConfig.from_hf({**ModernBertConfig().to_dict(), **change})


def test_our_configuration_is_read_by_transformers(tmp_path):
    config = EncoderConfig(num_layers=6, local_rope_theta=20_000.0)
    theirs = ModernBertConfig(**config.to_hf())
    assert EncoderConfig.from_hf(theirs.to_dict()) == config


def test_layers_computed_anew_have_the_same_gradients_and_keep_less():
    torch.manual_seed(0)
    model = ModernBert(EncoderConfig(100, 32, 48, 4, 2, pad_id=0))
    model.initialise()
    batch = pack([list(range(3, 60)), [4, 5, 6]])

    def gradients():
        model.zero_grad()
        model(batch).sin().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected = gradients()
    model.recompute = True
    found = gradients()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        again = model(batch)
    model.recompute = False
    torch.testing.assert_close(model(batch), again)
    assert peak(model, batch, recompute=True) < 0.5 * peak(model, batch, recompute=False)


def peak(model, batch, *, recompute):
    """Numbers that the forward pass keeps for the backward one."""
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    model.recompute = recompute
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(batch)
    return sum(kept.values())
