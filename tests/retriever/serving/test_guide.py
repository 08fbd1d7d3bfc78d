"""The guide's requests work as printed, and are answered as it shows."""

import json
import re
import subprocess

import pytest

from encoder.light import LightEncoder
from tests.helpers.pages import blocks
from tests.retriever.serving.conftest import ROOT, make, running

GUIDE = blocks(ROOT / "docs" / "guides" / "http.md")
TEXTS = {
    "heart": "The heart pumps blood through the body.",
    "bank": "The central bank raised interest rates.",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide") / "docs.index"
    with running(make(folder, LightEncoder.load(), TEXTS, lambda text: {"length": len(text)})) as (url, _):
        yield url


def asked(url, line):
    line = line.replace("localhost:8000", url.removeprefix("http://"))
    done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def lines():
    return [
        line
        for block in GUIDE
        if block.language == "sh"
        for line in block.text.splitlines()
        if "curl" in line
    ]


def same(shown, given):
    if isinstance(shown, dict):
        return shown.keys() == given.keys() and all(same(shown[key], given[key]) for key in shown)
    if isinstance(shown, list):
        return len(shown) == len(given) and all(map(same, shown, given))
    return shown == "..." or (
        given == pytest.approx(shown, abs=0.01) if isinstance(shown, float) else given == shown
    )


def test_the_first_request_is_answered_as_the_guide_shows(url):
    shown = next(json.loads(block.text) for block in GUIDE if block.language == "json")
    given = asked(url, lines()[0])
    assert same(shown, given), json.dumps(given)


def test_the_other_requests_work_as_printed(url):
    assert len(lines()) == 3
    [hit] = asked(url, lines()[1])["hits"]
    assert (hit["doc_id"], hit["text"]) == ("heart", None)
    [best] = asked(url, lines()[2])["results"]
    assert best["index"] == 1


def test_the_guide_names_every_path(url):
    text = (ROOT / "docs" / "guides" / "http.md").read_text(encoding="utf-8")
    document = asked(url, "curl -s localhost:8000/openapi.json")
    for path in document["paths"]:
        named = path.replace("{name}", "docs").replace("{doc_id}", "(?:ID|bank)")
        assert re.search(named + r"(?=[`' ?])", text), path
