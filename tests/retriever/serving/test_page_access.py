"""The page for everybody: by keyboard alone, for a reader of screens, on a phone, with odd texts, when things fail."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from indexing import Index
from tests.helpers.browser import Page, serving
from tests.helpers.page_corpus import EVIL, FISH, WALL, expected_matches

ROOT = Path(__file__).parents[3]

# By keyboard alone --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_keyboard_alone_suffices(page, searcher):
    page.open("?index=texts")
    page.until(lambda: page.text("#remark"))
    page.script("document.activeElement.blur()")
    page.press("/")
    assert page.focused("#query")
    page.press(*FISH)
    page.until(lambda: page.titles()[:1] == ["fish"])
    page.press(Keys.ARROW_DOWN)
    assert page.focused(".hit:nth-child(1) h2 a")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert page.focused(".hit:nth-child(2) h2 a")
    page.press(*[Keys.ARROW_RIGHT] * 4)  # [CLS], does, eating, fish
    assert [token.text for token in page.all(".token.pointed")] == ["fish"]
    assert page.text(".hit:nth-child(2) .note").startswith(expected_matches(searcher.search(FISH)[1])[3])
    page.press(Keys.ARROW_LEFT)
    assert [token.text for token in page.all(".token.pointed")] == ["eating"]
    assert page.text("#told").startswith("eating: hit 1, eating, ")
    second = page.ids()[1]
    page.press(Keys.ENTER)
    page.until(lambda: page.text("dialog h2") == second)
    page.tab_to(".matches button:nth-child(3)")
    pointed = page.all("dialog mark.pointed")
    assert [mark.text for mark in pointed] == [page.text(".matches button:nth-child(3) b:last-of-type")]
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog[open]"))
    assert page.focused(".hit:nth-child(2) h2 a")
    page.press(Keys.ESCAPE)  # lets go of the token
    assert page.all(".pointed") == []
    page.press(Keys.ESCAPE)
    assert page.focused("#query")
    page.press(Keys.ESCAPE)
    page.until(lambda: page.titles() == [])
    assert page.value() == ""


@pytest.mark.slow
def test_tokens_are_a_toolbar(page, searcher):
    page.open(f"?index=texts&q={FISH}")
    page.until(lambda: page.titles())
    page.tab_to(".token")
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)  # round the end
    assert page.focused(".token:nth-last-child(2)")
    page.press(*[Keys.ARROW_RIGHT] * 5, Keys.ENTER)
    [pressed] = page.all(".token[aria-pressed=true]")
    assert pressed.text == "fish"
    assert page.text(".hit:nth-child(1) .note").startswith(expected_matches(searcher.search(FISH)[0])[3])
    page.press(Keys.TAB)  # one stop for all tokens
    assert page.focused(".hit:nth-child(1) h2 a")
    assert [token.text for token in page.all(".token.pointed")] == ["fish"]


@pytest.mark.slow
def test_modes_and_filters_are_reached_by_tab(page):
    page.open("?index=texts&q=rain")
    page.until(lambda: page.titles())
    page.tab_to("#modes input")
    page.press(Keys.ARROW_RIGHT)
    page.until(lambda: page.parameters().get("mode") == ["lexical"])
    page.press(Keys.TAB, Keys.ENTER)
    assert page.one("#filters").is_displayed()


# What is said -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_document_holds_stays_text(page, searcher):
    page.open("?index=texts&q=how+do+strangers+attack+a+page")
    page.until(lambda: page.titles()[:1] == [EVIL])
    [hit, *_] = searcher.search("how do strangers attack a page")
    assert page.script("return document.querySelector('.hit .prose').textContent") == hit.text
    page.all(".hit h2 a")[0].click()
    page.until(lambda: page.text("dialog h2") == EVIL)
    assert page.script("return document.querySelector('dialog .whole').textContent") == hit.text
    page.one("dialog summary").click()
    assert EVIL in [value.text for value in page.all("dialog dd")]
    assert page.script("return window.pwned") is None
    assert page.script("return [document.scripts.length, document.images.length]") == [1, 1]


@pytest.mark.slow
def test_metadata_of_odd_types_are_shown_all_the_same(page):
    page.open("?index=code&q=what+does+a+zebra+eat&doc=odd")
    page.until(lambda: page.text("dialog h2") == "odd")
    for place in (".hit:nth-child(1)", "dialog"):
        assert page.lines(place) == [(3, "what a zebra eats"), (4, "in the zoo")]
    assert '[5,[1,1000000000000],"x"]' in [
        page.script("return arguments[0].textContent", value) for value in page.all("dialog dd")
    ]


@pytest.mark.slow
def test_a_query_stays_text(page):
    page.open(f"?index=texts&q={json.dumps(EVIL)[1:-1].replace('&', '%26')}")
    page.until(lambda: page.titles())
    assert page.script("return window.pwned") is None
    assert page.script("return document.scripts.length") == 1


@pytest.mark.slow
def test_how_much_is_encoded_is_told(page):
    page.open("?index=half&q=fish+of+the+cold+seas&mode=late")
    page.until(lambda: page.titles())
    assert page.text("#remark").startswith("8 of 10 documents are encoded. Late does not find the others yet")
    assert "cod" not in page.ids()
    page.one("#modes [value=lexical]").click()
    page.until(lambda: page.titles()[:1] == ["cod"])
    assert "found by their words alone" in page.text("#remark")


@pytest.mark.slow
def test_what_is_encoded_meanwhile_is_told_without_a_search(page, browser, encoder, tmp_path):
    with Index.create(tmp_path / "i", encoder) as index:
        index.add([{"doc_id": "cod", "text": "Cod is a fish."}])
        index.add([{"doc_id": "hake", "text": "Hake is a fish, too."}], encode=False)
        with serving({"growing": tmp_path / "i"}) as growing:
            page.own.add(urlsplit(growing.url).netloc)
            page = Page(browser, growing.url)
            page.open("?q=fish&mode=late")
            page.until(lambda: "1 of 2 documents are encoded" in page.text("#remark"))
            index.encode()
            page.until(lambda: page.text("#remark") == "")
            assert (page.ids(), page.sent("/search")) == (["cod"], 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "means", "offer", "then"),
    [
        ("?index=texts&q=zyzzyva&mode=lexical", "No document has a word of this query", "Search by meaning", 8),
        ("?index=texts&q=fish&filter=year>3000", "No document meets the filters", "Clear the filters", 8),
        ('?index=texts&q=zyzzyva&mode=lexical&where.topic="food"', "the filters has a word", "Clear the filters", 0),
        ("?index=waiting&q=fish&mode=late", "Nothing is encoded yet", "Search by words", 2),
        ("?index=empty&q=fish", "This index has no documents", None, 0),
    ],
)  # fmt: skip
def test_an_empty_result_says_what_it_means_and_what_may_be_done(page, server, search, means, offer, then):
    server.faults.expect(422)
    page.open(search)
    page.until(lambda: means in page.text("#remark"))
    assert page.titles() == []
    buttons = page.all("#remark button")
    assert [button.text for button in buttons] == ([offer] if offer else [])
    if offer:
        buttons[0].click()
        page.until(lambda: means not in page.text("#remark"))
        page.until(lambda: len(page.titles()) == then)


@pytest.mark.slow
def test_before_a_query_it_says_what_there_is(page):
    page.open("?index=texts")
    page.until(lambda: "8 documents" in page.text("#remark"))
    assert page.focused("#query")
    page.choose("index", "code", form="")
    page.until(lambda: page.text("#remark h2") == "code")
    assert page.parameters() == {"index": ["code"]}


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told_and_asked_again(page, server):
    page.open("?index=texts")
    page.until(lambda: page.text("#remark"))
    page.online(False)
    server.faults.expect(0)
    page.type("heavy rain")
    page.until(lambda: "The server does not answer" in page.text("#alert"))
    page.online()
    page.one("#alert button").click()
    page.until(lambda: page.titles()[:1] == ["rain"])
    assert page.text("#alert") == ""


@pytest.mark.slow
def test_a_busy_server_is_asked_again_by_itself(page, server):
    page.open("?index=texts")
    page.until(lambda: page.text("#remark"))
    server.faults.busy = 1
    page.type("heavy rain")
    page.until(lambda: "busy; asking again in 1 s" in page.text("#status"))
    page.until(lambda: page.titles()[:1] == ["rain"])


@pytest.mark.slow
def test_what_the_server_refuses_is_said_in_its_words(page, server):
    server.faults.expect(422)
    page.open("?index=texts&q=rain&filter=year+==+1")
    page.until(lambda: "filter has '==' at position 6" in page.text("#alert"))


@pytest.mark.slow
def test_a_token_is_asked_for(page, server, folders, browser, tmp_path):
    secret = tmp_path / "token"
    secret.write_text("open sesame", encoding="utf-8")
    with serving({"texts": folders["texts"]}, token_file=str(secret)) as guarded:
        page.own.add(urlsplit(guarded.url).netloc)
        page = Page(browser, guarded.url)
        server.faults.expect(401)
        page.open("?q=heavy+rain")
        page.until(lambda: page.all("#alert input"))
        assert page.titles() == []
        page.one("#alert input").send_keys("wrong", Keys.ENTER)
        page.until(lambda: page.all("#alert input") and page.one("#alert input").get_attribute("value") == "")
        page.one("#alert input").send_keys("open sesame", Keys.ENTER)
        page.until(lambda: page.titles()[:1] == ["rain"])
        page.reload()
        page.until(lambda: page.titles()[:1] == ["rain"])
        assert "sesame" not in page.script(
            "return location.href + document.cookie + JSON.stringify(localStorage)"
        )


# Shape --------------------------------------------------------------------------------------------------------------

VIEWS = {
    "start": "?index=texts",
    "hits": f"?index=texts&q={FISH}",
    "code": "?index=code&q=drop+what+is+too+old",
    "filters": "?index=texts&q=rain&filter=year>2000",
    "half": "?index=half&q=fish",
    "nothing": "?index=texts&q=zyzzyva&mode=lexical",
    "document": f"?index=texts&q={WALL}&doc=minutes%2Flong+%3F%23.txt",
}


def shown(page, view):
    page.open(VIEWS[view])
    page.until(lambda: page.text("#remark") or page.titles())
    if "doc=" in VIEWS[view]:
        page.until(lambda: page.all("dialog[open]"))


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_of_360_pixels_needs_no_scrolling_sideways(page, view):
    page.size(360, 740)
    shown(page, view)
    wide = """const top = document.querySelector("dialog[open]") ?? document.documentElement;
        return [top.scrollWidth, innerWidth,
            [...top.querySelectorAll("h2, p, pre, .line, input, select, button:not(.token), mark")]
                .filter((one) => one.getClientRects().length && one.getBoundingClientRect().right > innerWidth + 0.5
                    && !one.closest("#tokens")).map((one) => one.outerHTML.slice(0, 80))]"""
    scroll, inner, beyond = page.script(wide)
    assert (inner, beyond) == (360, [])
    assert scroll <= 360
    page.size(1200, 900)


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_axe_has_no_serious_finding_in_light_and_in_dark(page, axe, view):
    shown(page, view)
    if view == "hits":
        page.hover(page.all(".token")[3])
    page.script(axe)
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        run = "axe.run(document).then((found) => arguments[0](found.violations))"
        serious = [
            (one["id"], one["impact"], [node["html"][:100] for node in one["nodes"]])
            for one in page.driver.execute_async_script(run)
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], scheme


@pytest.mark.slow
def test_a_reader_of_screens_is_told_what_is_what(page):
    page.open(f"?index=texts&q={FISH}")
    page.until(lambda: page.titles())
    tree = {(node["role"]["value"], node["name"]["value"]) for node in page.accessibility() if "name" in node}
    assert {
        ("searchbox", "Search"), ("search", ""), ("radio", "Late"),
        ("toolbar", "Tokens of the query: what each matched"),
        ("button", "fish"), ("link", "fish"), ("main", ""),
    } <= tree  # fmt: skip
    live = page.script(
        "return [...document.querySelectorAll('[role=status],[role=alert]')].map((one) => one.id)"
    )
    assert live == ["status", "told", "alert"]


@pytest.mark.slow
def test_the_pictures_in_the_docs_are_what_the_script_makes(browser, tmp_path):
    """browser: where there is none, this one says so."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "page_screenshots.py"), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for made in map(Path, done.stdout.split()):
        kept = (ROOT / "docs" / made.name).read_bytes()
        assert made.read_bytes()[:24] == kept[:24]  # PNG's head: the same size
