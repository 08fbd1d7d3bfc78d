"""The page in a browser, Debian's Chromium, against a real server: what a reader sees is what Python finds."""

import re
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from retriever import Searcher
from tests.helpers.page_corpus import CODE, EVIL, FISH, TOPICS, WALL, expected_matches

# Searching ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hits_come_as_one_types(page, searcher):
    page.open("?index=texts")
    page.type("why must the wall be rebuilt")
    page.until(lambda: page.titles()[:1] == ["minutes/long ?#.txt"])
    hits = searcher.search("why must the wall be rebuilt")
    assert page.ids() == [hit.doc_id for hit in hits]
    assert page.scores() == [f"{hit.score:.2f}" for hit in hits]
    assert re.fullmatch(r"8 hits in 8 documents · \d+ ms", page.text("#status"))
    assert page.parameters() == {"index": ["texts"], "q": ["why must the wall be rebuilt"]}


@pytest.mark.slow
def test_going_on_typing_cancels_the_search_before(page, server):
    page.open("?index=texts")
    page.until(lambda: page.text("#remark"))
    server.faults.delay = 0.6
    page.type("who sets")
    page.until(lambda: page.sent("/search") == 1)
    page.type(" the cost of borrowing")
    page.until(lambda: page.titles())
    server.faults.delay = 0.0
    assert page.cancelled() == 1
    assert page.titles()[0] in ("loan", "bank")
    assert page.sent("/search") == 2  # and none for each letter


@pytest.mark.slow
def test_a_query_that_is_cleared_waits_for_nothing(page, server):
    page.open("?index=texts")
    page.until(lambda: page.text("#remark"))
    server.faults.delay = 0.6
    page.type("who sets")
    page.until(lambda: page.one("#results").get_attribute("aria-busy") == "true")
    page.clear()
    page.until(lambda: page.one("#results").get_attribute("aria-busy") == "false")
    assert page.titles() == []


@pytest.mark.slow
def test_matched_tokens_are_tinted_by_their_share_of_the_score(page, searcher):
    page.open(f"?index=texts&q={FISH}")
    page.until(lambda: page.titles())
    shown = page.marks(".hit:nth-child(1)")
    [hit, *_] = searcher.search(FISH)
    shares = Counter()
    for match in hit.explain().matches:
        if match.span is not None:
            shares[match.span] += match.score
    greatest = max(shares.values())
    assert shown == [
        (hit.text[slice(*span)], pytest.approx(shares[span] / greatest, abs=1e-3)) for span in sorted(shares)
    ]


@pytest.mark.slow
def test_marks_after_signs_beyond_two_bytes_are_where_python_has_them(page, searcher):
    page.open(f"?index=texts&q={FISH}")
    page.until(lambda: page.titles())
    hit = next(hit for hit in searcher.search(FISH) if hit.doc_id == "oats")
    spans = hit.explain().spans
    assert any(span[0] > hit.text.index("🎏") for span in spans)
    assert [text for text, _ in page.marks(f".hit:nth-child({hit.rank})")] == [
        hit.text[a:b] for a, b in spans
    ]
    page.open(f"?index=texts&q={FISH}&doc=oats")
    page.until(lambda: page.text("dialog h2") == "oats")
    assert [text for text, _ in page.marks("dialog")] == [hit.text[a:b] for a, b in spans]


@pytest.mark.slow
def test_pointing_at_a_token_shows_its_match_and_score_in_each_hit(page, searcher):
    page.open(f"?index=texts&q={FISH}")
    page.until(lambda: page.titles())
    hits = searcher.search(FISH)
    assert [token.text for token in page.all(".token")] == [
        "[CLS]", *re.findall(r"\w+|\?", FISH), "[SEP]",
    ]  # fmt: skip
    for i in (3, 5, 7):
        page.hover(page.all(".token")[i])
        for hit in hits:
            card = f".hit:nth-child({hit.rank})"
            assert page.text(f"{card} .note").startswith(expected_matches(hit)[i]), hit.doc_id
            span = hit.explain().matches[i].span
            pointed = [mark.text for mark in page.all(f"{card} mark.pointed")]
            if span is None:
                assert pointed == [], hit.doc_id
                continue
            assert pointed in ([hit.text[slice(*span)]], []), hit.doc_id
            if not pointed:  # then the note has its surroundings
                assert hit.text[slice(*span)] in page.text(f"{card} .around")
    page.hover(page.one("h1"))
    assert page.all(".pointed") == []


@pytest.mark.slow
def test_a_mark_tells_which_token_it_is_the_match_of(page):
    page.open(f"?index=texts&q={FISH}")
    page.until(lambda: page.titles())
    page.hover(next(mark for mark in page.all(".hit:nth-child(1) mark") if mark.text == "fish"))
    assert [token.text for token in page.all(".token.pointed")] == ["fish"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["late", "lexical"])
def test_modes_are_switched_and_kept_in_the_address(page, searcher, mode):
    page.open(f"?index=texts&q={FISH}")
    page.until(lambda: page.titles())
    assert page.one("#modes [value=hybrid]").is_selected()  # as in any search, and so not in the address
    page.one(f"#modes [value={mode}]").click()
    page.until(lambda: page.parameters().get("mode") == [mode])
    hits = searcher.search(FISH, mode=mode)
    page.until(lambda: page.scores() == [f"{hit.score:.2f}" for hit in hits])
    assert page.ids() == [hit.doc_id for hit in hits]
    assert page.one("#map").is_displayed() == (mode == "late")
    if mode == "lexical":
        assert {"fish", "heart", "Eating", "disease"} <= {mark.text for mark in page.all("mark.word")}
    page.one("#modes [value=hybrid]").click()
    page.until(lambda: "mode" not in page.parameters())
    page.until(lambda: page.scores() == [f"{hit.score:.2f}" for hit in searcher.search(FISH)])


@pytest.mark.slow
def test_what_is_typed_is_not_lost_when_a_mode_is_chosen_at_once(page):
    page.open("?index=texts")
    page.type("heavy rain")
    page.one("#modes [value=lexical]").click()
    page.until(lambda: page.titles() == ["rain"])
    assert page.parameters() == {"index": ["texts"], "q": ["heavy rain"], "mode": ["lexical"]}


@pytest.mark.slow
def test_more_hits_are_shown_on_demand(page, searcher):
    page.open(f"?index=texts&q={FISH}&k=3")
    page.until(lambda: len(page.titles()) == 3)
    page.one("#more").click()
    page.until(lambda: page.ids() == [hit.doc_id for hit in searcher.search(FISH, k=13)])
    assert not page.one("#more").is_displayed()


# Filters ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_filters_are_made_of_the_keys_that_exist(page):
    page.open("?index=texts&q=news")
    page.until(lambda: page.titles())
    page.one("#filters-button").click()
    options = {
        field.get_attribute("name"): [option.text for option in field.find_elements("tag name", "option")]
        for field in page.all("#filters select")
    }
    assert set(options) == {"topic", "year", "short", "title", '"o\'clock"'}
    assert options["topic"] == ["any", *sorted({"food", "money", "weather", "town", EVIL})]
    assert options["year"] == ["any", "2018", "2019", "2020", "2021", "2022"]
    assert sorted(options["short"]) == ["any", "false", "true"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "filter"),
    [
        ({"topic": "food"}, "topic = 'food'"),
        ({"topic": "food", "year": "2021"}, "topic = 'food' and year = 2021"),
        ({"short": "true"}, "short = true"),
        ({"topic": EVIL}, "topic = '" + EVIL.replace("'", "''") + "'"),
        ({'"o\'clock"': "half past"}, "\"o'clock\" = 'half past'"),
    ],
)
def test_a_filter_is_chosen_and_kept_in_the_address(page, searcher, chosen, filter):
    page.open("?index=texts&q=news+of+the+day")
    page.until(lambda: page.titles())
    page.one("#filters-button").click()
    for name, value in chosen.items():
        page.choose(name, value)
    wanted = [hit.doc_id for hit in searcher.search("news of the day", filter=filter)]
    assert wanted
    page.until(lambda: page.ids() == wanted)
    page.reload()
    page.until(lambda: page.ids() == wanted)
    assert page.text("#filters-button") == f"Filters ({len(chosen)})"
    page.one("#filters [type=reset]").click()
    page.until(lambda: len(page.ids()) == 8)
    assert page.parameters() == {"index": ["texts"], "q": ["news of the day"]}


@pytest.mark.slow
def test_a_filter_is_typed(page, server):
    page.open("?index=texts&q=news")
    page.until(lambda: page.titles())
    page.one("#filters-button").click()
    page.one("#filters [name=filter]").send_keys("year >= 2021 and topic != 'food'", Keys.ENTER)
    page.until(lambda: sorted(page.ids()) == ["bank", "rain"])
    server.faults.expect(422)
    page.one("#filters [name=filter]").send_keys(" and yeer = 1", Keys.ENTER)
    page.until(lambda: "has the key yeer at position" in page.text("#alert"))
    assert "did you mean year?" in page.text("#alert")
    assert (page.titles(), page.text("#status")) == ([], "")  # those were of another filter


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "filter"),
    [
        ("expire", "(symbol icontains 'expire' or symbol contains 'expire')"),
        ("12", "(symbol = 12 or symbol icontains '12' or symbol contains '12')"),
        ("= prices", "symbol = 'prices'"),
        ("!= prices", "symbol != 'prices'"),
        ("it's", "(symbol icontains 'it''s' or symbol contains 'it''s')"),
    ],
)
def test_a_key_of_many_values_is_asked_by_a_part_or_a_comparison(page, folders, encoder, typed, filter):
    """Any key will do where its values are many: the expression is the page's own."""
    keys = [{"key": "symbol", "values": None}]
    made = page.module("filters.js", "expression", {"where": {"symbol": typed}, "filter": ""}, keys)
    assert made == filter
    number = page.module(
        "filters.js",
        "expression",
        {"where": {"n": ">= 1.5"}, "filter": "a = 1"},
        [{"key": "n", "values": None}],
    )
    assert number == "(a = 1) and n >= 1.5"
    with Searcher.open(folders["code"], encoder) as searcher:
        searcher.search("x", filter=made)  # can be read


# Documents ----------------------------------------------------------------------------------------------------------


def in_view(page, selector):
    """Whether an element is within the dialog's own view, below its head."""
    return page.script(
        """const [element, dialog] = [document.querySelector(arguments[0]), document.querySelector("dialog")];
        const [a, b] = [element.getBoundingClientRect(), dialog.getBoundingClientRect()];
        const head = dialog.querySelector(".head").getBoundingClientRect();
        return a.bottom > head.bottom && a.top < b.bottom && a.height > 0;""",
        selector,
    )


@pytest.mark.slow
def test_a_document_opens_at_its_passage(page, searcher):
    page.open(f"?index=texts&q={WALL}")
    page.until(lambda: page.titles())
    page.all(".hit h2 a")[0].click()
    page.until(lambda: page.text("dialog h2") == "minutes/long ?#.txt")
    [hit, *_] = searcher.search(WALL)
    assert hit.passage.span[0] > 0
    assert page.script("return document.querySelector('dialog .whole').textContent") == hit.text
    assert page.script("return document.querySelector('dialog .passage').textContent") == hit.passage.text
    assert page.script("return document.querySelector('dialog').scrollTop") > 500
    wall = next(mark for mark in page.all("dialog mark") if mark.text == "wall")
    page.script("arguments[0].id = 'wall'", wall)
    assert in_view(page, "#wall")
    assert page.parameters()["doc"] == ["minutes/long ?#.txt"]
    matches = [button.text for button in page.all("dialog .matches button")]
    assert matches == [told for told in expected_matches(hit) if not told.startswith("[CLS]")]


@pytest.mark.slow
def test_a_link_to_a_document_works_in_a_new_tab(page):
    page.open(f"?index=texts&q={WALL}")
    page.until(lambda: page.titles())
    link = page.all(".hit h2 a")[0].get_attribute("href")
    page.open(f"?{urlsplit(link).query}")
    page.until(lambda: page.text("dialog h2") == "minutes/long ?#.txt")
    assert page.script("return document.querySelector('dialog').scrollTop") > 500
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog[open]"))
    assert page.parameters() == {"index": ["texts"], "q": [WALL]}


@pytest.mark.slow
def test_a_document_that_the_query_does_not_find_opens_without_a_passage(page):
    page.open(f"?index=texts&q={WALL}&k=1&doc=rain")
    page.until(lambda: page.text("dialog h2") == "rain")
    assert page.text("dialog .whole") == TOPICS["rain"][2]
    assert page.all("dialog .passage") == []


@pytest.mark.slow
def test_a_document_that_is_gone_is_said_in_words(page, server):
    server.faults.expect(404)
    page.open(f"?index=texts&q={WALL}&doc=nowhere")
    page.until(lambda: "no document 'nowhere'" in page.text("#alert"))
    assert page.titles()


@pytest.mark.slow
def test_code_has_line_numbers_and_its_symbol(page, folders, encoder):
    page.open("?index=code&q=drop+what+is+too+old")
    page.until(lambda: page.titles())
    assert page.titles()[0] == "Store.expire"
    assert page.text(".hit:nth-child(1) .place") == "sessions.py:9–11 · method · python"
    lines = CODE.split("\n")
    shown = page.lines(".hit:nth-child(1)")
    assert shown == [(n, lines[n - 1]) for n in (9, 10, 11)]
    page.all(".hit h2 a")[0].click()
    page.until(lambda: page.text("dialog h2") == "Store.expire")
    assert page.lines("dialog") == shown
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog[open]"))
    page.open("?index=code&q=class+Store")
    page.until(lambda: page.titles()[:1] == ["Store"])
    # A class is its own lines; its methods are documents of their own.
    assert page.lines(".hit:nth-child(1)") == [(n, lines[n - 1]) for n in (4, 5, 6, 7)]


@pytest.mark.slow
def test_a_document_that_comes_when_it_is_no_longer_wanted_stays_closed(page, server):
    page.open(f"?index=texts&q={WALL}")
    page.until(lambda: page.titles())
    server.faults.delay = 0.3
    page.all(".hit h2 a")[0].click()
    page.until(lambda: any("/documents/" in url for url in page.urls()))
    page.back()
    time.sleep(0.6)
    assert page.all("dialog[open]") == []


# The address --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_back_and_forward_bring_queries_and_documents_again(page, searcher):
    page.open("?index=texts")
    page.until(lambda: page.text("#remark"))
    page.type("heavy rain\n")
    page.until(lambda: page.titles()[:1] == ["rain"])
    page.clear()
    page.type(f"{WALL}\n")
    page.until(lambda: page.titles()[:1] == ["minutes/long ?#.txt"])
    page.all(".hit h2 a")[0].click()
    page.until(lambda: page.all("dialog[open]"))
    page.back()
    page.until(lambda: not page.all("dialog[open]"))
    assert page.value() == WALL
    page.back()
    page.until(lambda: page.titles()[:1] == ["rain"])
    assert page.value() == "heavy rain"
    page.back()
    page.until(lambda: "8 documents" in page.text("#remark"))
    assert (page.value(), page.titles()) == ("", [])
    page.forward()
    page.until(lambda: page.titles()[:1] == ["rain"])
    page.forward()
    page.forward()
    page.until(lambda: page.all("dialog[open]"))
    assert page.parameters()["doc"] == ["minutes/long ?#.txt"]


@pytest.mark.slow
def test_closing_a_document_is_a_step_back(page):
    page.open(f"?index=texts&q={WALL}")
    page.until(lambda: page.titles())
    page.clear()
    page.type("heavy rain\n")
    page.until(lambda: page.titles()[:1] == ["rain"])
    for _ in range(2):
        page.all(".hit h2 a")[0].click()
        page.until(lambda: page.all("dialog[open]"))
        page.one("dialog .close").click()
        page.until(lambda: not page.all("dialog[open]"))
    page.back()
    page.until(lambda: page.value() == WALL)
    assert page.all("dialog[open]") == []


@pytest.mark.slow
def test_going_back_to_another_index_brings_its_filters(page):
    page.open("?index=texts&q=basket")
    page.until(lambda: page.titles())
    page.choose("index", "code", form="")
    page.until(lambda: "prices" in page.titles())
    assert page.script("return document.querySelector('#filters [name=language]') !== null")
    page.back()
    page.until(lambda: "prices" not in page.titles())
    assert page.script("return document.querySelector('#filters [name=topic]') !== null")


@pytest.mark.slow
@pytest.mark.parametrize(
    "search",
    [
        "?q=rain&where.topic=weather",
        "?k=nonsense&mode=odd&q=rain",
        "?k=-4&index=none&q=rain",
        "?q=rain&k=1e9&x=y",
    ],
)
def test_an_address_that_makes_no_sense_is_read_as_far_as_it_does(page, search):
    page.open(search)
    page.until(lambda: page.titles()[:1] == ["rain"])
