"""Tokenising, step by step, against transformers driven by PyLate's rules."""

import string
from functools import cache

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from encoder.errors import ArgumentError, CheckpointError
from encoder.tokenizer import LateTokenizer, TokenizerSettings
from tests.helpers.checkpoints import SPECIALS, TEXTS, byte_level, wordpiece

NAMES = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def pylate_tokens(tokenizer, texts, settings, *, is_query):
    """`pylate.models.ColBERT.tokenize` and what `encode` keeps, for one text at a time.

    Returns (ids, attention, kept positions) of each text.
    """
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)
    fast.add_tokens([p for p in (settings.query_prefix, settings.document_prefix) if p])
    fast.pad_token_id = fast.mask_token_id
    prefix = settings.query_prefix if is_query else settings.document_prefix
    length = settings.query_length if is_query else settings.document_length
    expand = is_query and settings.do_query_expansion
    rows = []
    for text in texts:
        out = fast(
            text.strip(),
            truncation="longest_first",
            max_length=length - 1 if prefix else length,
            padding="max_length" if expand else False,
        )
        ids, attention = out["input_ids"], out["attention_mask"]
        if prefix:
            ids = [ids[0], fast.convert_tokens_to_ids(prefix), *ids[1:]]
            attention = [attention[0], 1, *attention[1:]]
        if expand and settings.attend_to_expansion_tokens:
            attention = [1] * len(ids)
        skiplist = {fast.convert_tokens_to_ids(w) for w in settings.skiplist_words} - {fast.unk_token_id}
        kept = list(range(len(ids)))
        if not is_query:
            kept = [i for i in kept if attention[i] and ids[i] not in skiplist]
        rows.append((ids, attention, kept))
    return rows


SETTINGS = [
    TokenizerSettings(),
    TokenizerSettings(query_length=9, document_length=10),
    TokenizerSettings(do_query_expansion=False, query_length=8),
    TokenizerSettings(attend_to_expansion_tokens=True),
    TokenizerSettings(query_prefix="", document_prefix="", query_length=7, document_length=8),
    TokenizerSettings(query_prefix="[unused0]", document_prefix="[unused1]", skiplist_words=("the", "leaf")),
]


@pytest.mark.parametrize("make", [wordpiece, byte_level])
@pytest.mark.parametrize("settings", SETTINGS)
def test_queries_and_documents_are_pylates(make, settings):
    ours = LateTokenizer(make(), settings)
    for is_query in (True, False):
        out = (ours.queries if is_query else ours.documents)(TEXTS)
        theirs = pylate_tokens(make(), TEXTS, settings, is_query=is_query)
        assert out.ids == [ids for ids, _, _ in theirs]
        assert [[1] * n + [0] * (len(i) - n) for i, n in zip(out.ids, out.n_keys, strict=True)] == [
            attention for _, attention, _ in theirs
        ]
        kept = out.kept or [[True] * len(i) for i in out.ids]
        assert [[p for p, k in enumerate(row) if k] for row in kept] == [k for _, _, k in theirs]


def test_the_marker_comes_second_and_is_one_new_token():
    tokenizer = LateTokenizer(wordpiece(), TokenizerSettings())
    size = wordpiece().get_vocab_size()
    assert (tokenizer.query_marker, tokenizer.document_marker) == ([size], [size + 1])
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.documents(["oak"]).ids[0][:2] == [SPECIALS.index("[CLS]"), size + 1]


def test_a_marker_that_the_vocabulary_has_is_not_added():
    settings = TokenizerSettings(query_prefix="[unused0]", document_prefix="[unused1]")
    tokenizer = LateTokenizer(wordpiece(), settings)
    assert tokenizer.vocab_size == wordpiece().get_vocab_size()
    assert tokenizer.query_marker == [SPECIALS.index("[unused0]")]


def test_expansion_fills_a_query_to_exactly_its_length():
    for attend in (False, True):
        tokenizer = LateTokenizer(wordpiece(), TokenizerSettings(attend_to_expansion_tokens=attend))
        out = tokenizer.queries(["the old oak", "leaf " * 100])
        assert [len(i) for i in out.ids] == [32, 32]
        assert out.ids[0][6:] == [SPECIALS.index("[MASK]")] * 26
        assert out.n_keys == ([32, 32] if attend else [6, 32])
        assert (out.kept, out.truncated) == (None, 1)


def test_expansion_to_a_length_below_the_limit_leaves_longer_queries_whole():
    tokenizer = LateTokenizer(wordpiece(), TokenizerSettings(query_length=64, expansion_length=10))
    out = tokenizer.queries(["oak", "leaf " * 30, "leaf " * 100])
    assert [len(i) for i in out.ids] == [10, 33, 64]
    assert (out.n_keys, out.truncated) == ([4, 33, 64], 1)


def test_a_skipped_word_outside_the_vocabulary_does_not_take_the_unknown_words_with_it():
    settings = TokenizerSettings(skiplist_words=("oak", "sequoia", "."))
    tokenizer = LateTokenizer(wordpiece(), settings)
    out = tokenizer.documents(["the baobab oak."])
    words = wordpiece().encode("the baobab oak.", add_special_tokens=False).ids
    assert out.ids[0] == [2, *tokenizer.document_marker, *words, 3]
    assert out.kept == [[True, True, True, True, False, False, True]]
    assert tokenizer.skiplist == {wordpiece().token_to_id("oak"), wordpiece().token_to_id(".")}


def test_truncated_texts_are_counted_and_keep_their_end_marker():
    tokenizer = LateTokenizer(wordpiece(), TokenizerSettings(document_length=6))
    out = tokenizer.documents(["a new oak", "a new oak leaf", "a new oak leaf late"])
    assert [len(i) for i in out.ids] == [6, 6, 6]
    assert all(i[-1] == SPECIALS.index("[SEP]") for i in out.ids)
    assert out.truncated == 2


def test_prompts_and_lowercasing():
    settings = TokenizerSettings(
        query_prompt="the ", document_prompt="a ", do_lower_case=True, skiplist_words=()
    )
    tokenizer = LateTokenizer(byte_level(), settings)
    plain = LateTokenizer(byte_level(), TokenizerSettings(skiplist_words=()))
    assert tokenizer.queries(["OAK"]).ids == plain.queries(["the oak"]).ids
    assert tokenizer.documents(["Oak"]).ids == plain.documents(["a oak"]).ids


def test_outer_whitespace_is_cut_and_inner_kept():
    tokenizer = LateTokenizer(byte_level(), TokenizerSettings())
    assert tokenizer.documents(["  oak\n  ash\n"]).ids == tokenizer.documents(["oak\n  ash"]).ids
    assert tokenizer.documents(["oak\n  ash"]).ids != tokenizer.documents(["oak ash"]).ids


def test_a_lone_surrogate_becomes_a_question_mark_and_the_order_stays():
    for make in (wordpiece, byte_level):
        tokenizer = LateTokenizer(make(), TokenizerSettings())
        out = tokenizer.documents(["oak", "leaf \ud800 ash", "\x00\x07", "pine"])
        assert out.ids == tokenizer.documents(["oak", "leaf ? ash", "\x00\x07", "pine"]).ids


def test_padding_and_truncation_saved_in_the_tokenizer_are_switched_off():
    tokenizer = wordpiece()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(5)
    out = LateTokenizer(tokenizer, TokenizerSettings()).documents(["a new oak leaf late " * 4])
    assert len(out.ids[0]) == 23


def test_without_a_cls_token_the_marker_is_still_second():
    """PyLate inserts at index 1 whatever is at 0; so a decoder's tokenizer has its first word there."""
    tokenizer = byte_level()
    tokenizer.post_processor = None
    late = LateTokenizer(tokenizer, TokenizerSettings(skiplist_words=()))
    content = byte_level().encode("old oak", add_special_tokens=False).ids
    assert late.documents(["old oak"]).ids == [[content[0], late.document_marker[0], *content[1:]]]


def test_what_cannot_work_is_refused():
    with pytest.raises(ArgumentError, match="query_length=3 leaves no room"):
        LateTokenizer(wordpiece(), TokenizerSettings(query_length=3))
    with pytest.raises(CheckpointError, match=r"no '\[GONE\]'.*do_query_expansion"):
        LateTokenizer(wordpiece(), TokenizerSettings(), mask_token="[GONE]")
    assert (
        LateTokenizer(
            wordpiece(), TokenizerSettings(do_query_expansion=False), mask_token="[GONE]"
        ).expansion_id
        == -1
    )


def test_defaults_are_pylates():
    assert TokenizerSettings() == TokenizerSettings(
        "[Q] ", "[D] ", 32, 180, True, False, tuple(string.punctuation)
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [wordpiece, byte_level])
@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=4))
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_text_has_its_place_and_fits(make, texts):
    """Control characters, lone surrogates, no text at all: each gives CLS, marker, SEP and what is between."""
    tokenizer = cached(make)
    for out, length in ((tokenizer.queries(texts), 12), (tokenizer.documents(texts), 10)):
        assert len(out.ids) == len(texts)
        for text, ids, n in zip(texts, out.ids, out.n_keys, strict=True):
            assert 3 <= n <= len(ids) <= length
            assert (ids[0], ids[n - 1]) == (2, 3)
            whole = make_ids(tokenizer, text)
            assert ids[2 : n - 1] == whole[: n - 3]
            assert n - 3 == min(len(whole), length - 3)


@cache
def cached(make):
    return LateTokenizer(make(), TokenizerSettings(query_length=12, document_length=10))


def make_ids(tokenizer, text):
    clean = "".join("?" if "\ud800" <= c <= "\udfff" else c for c in text.strip())
    return tokenizer.tokenizer.encode(clean, add_special_tokens=False).ids
