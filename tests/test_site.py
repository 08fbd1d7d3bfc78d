"""The pages in docs/: their blocks run and print what they show; the site builds; no page tells of its past."""

import logging
import re
from pathlib import Path

import pytest

import encoder
import indexing
import latewood
import retriever
import retriever.evaluation
from indexing.storage.tables import FORMAT_VERSION
from scripts import site_hooks
from tests.helpers.pages import assert_prints, blocks, parse_commands, run_page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FOLDERS = ("guides", "coming-from", "reference", "internals")
PAGES = sorted([*DOCS.glob("*.md"), *(page for folder in FOLDERS for page in (DOCS / folder).glob("*.md"))])
# Pages whose blocks make what they need; the others show forms and commands.
TO_DO = [
    page for page in PAGES if page.name == "quickstart.md" or page.parent.name in ("guides", "coming-from")
]
SLOW = {"train.md"}

MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DATED = re.compile(rf"\d {MONTH} \d{{4}}|\d{{4}}-\d\d-\d\d|\bv?\d+\.\d+\.\d+\b|\bversions? \d")
PAST = re.compile(r"\b(?:was|were|had|has been|have been|now|since|before that)\b", re.IGNORECASE)
NEVER = re.compile(
    r"(?<!is )(?<!are )(?<!be )\bused to\b|no longer|\bformerly\b|\bpreviously\b|the default before|as before\b"
    r"|\banymore\b|in earlier versions|at the time of writing",
    re.IGNORECASE,
)


def name(page):
    return str(page.relative_to(DOCS))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATEWOOD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if p.name in SLOW else [], id=name(p)) for p in TO_DO],
)
def test_a_page_does_what_it_says(page, folder):
    assert run_page(page, folder) > 0


@pytest.mark.parametrize("page", [p for p in PAGES if p not in TO_DO], ids=name)
def test_commands_of_the_other_pages_can_be_called(page):
    for block in blocks(page):
        assert block.language in ("", "sh"), f"{page}:{block.line} is not run by any test"
        if block.language:
            parse_commands(block.text, f"{page}:{block.line}")


def test_what_a_page_shows_is_compared():
    assert_prints("a 1.00\n...\nz", "a 1.01\nb\nc\nz", "here")
    for shown, printed in (("a 1.0", "a 1.5"), ("a\n...\nz", "a\nb"), ("a", "a\nb"), ("1,000 b", "2,000 b")):
        with pytest.raises(AssertionError, match="here"):
            assert_prints(shown, printed, "here")
    with pytest.raises(AssertionError, match="--no-such"):
        parse_commands("latewood info x --no-such", "here")
    with pytest.raises(AssertionError, match="no command zzz"):
        parse_commands("latewood zzz x", "here")


def sentences(page):
    """Those of a page's prose: no code, no tables' rules."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "`x`", text)
    return [
        " ".join(part.split())
        for part in re.split(r"(?<=[.:;!?])\s+|\n\s*\n|\n(?=[-|#*])", text)
        if part.strip()
    ]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "benchmarks.md"], ids=name)
def test_a_page_has_no_history(page):
    for sentence in sentences(page):
        assert not NEVER.search(sentence), sentence
        assert not (DATED.search(sentence) and PAST.search(sentence)), sentence


def test_history_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "It reads `used to` and is used to search.\n\nSince 0.2.0 it was fast.\n\nIt used to be slow.\n"
    )
    found = sentences(page)
    assert [bool(NEVER.search(s)) for s in found] == [False, False, True]
    assert [bool(DATED.search(s) and PAST.search(s)) for s in found] == [False, True, False]


def test_every_figure_of_the_benchmarks_names_its_command():
    sections = (DOCS / "benchmarks.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert len(sections) >= 6
    for section in sections:
        assert "|---|" in section
        assert re.search(r"`(?:python benchmarks/\w+\.py|latewood|scripts/evaluate) ?[^`]*`", section), (
            section[:80]
        )
        assert re.search(rf"\d{{1,2}}\s{MONTH} \d{{4}}", section), section[:80]


def test_a_guide_has_the_figures_of_the_benchmarks():
    quality = (DOCS / "benchmarks.md").read_text(encoding="utf-8").split("\n## ")[1]
    measured = {}  # collection: late, hybrid, lexical
    for row in re.findall(r"^\| (\w[\w ]*?) \|((?: [*\d.]+ \|){5})$", quality, re.MULTILINE):
        measured[row[0]] = [float(cell.strip(" *")) for cell in row[1].split("|")[:3]]
    rows = re.findall(
        r"^\| (\w+|mean of 7)(?: \([^)]*\))? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|",
        (DOCS / "guides" / "hybrid.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    shown = {name: [float(late), float(hybrid), float(words)] for name, late, words, hybrid in rows}
    assert shown == measured
    mean = measured.pop("mean of 7")
    assert len(measured) == 7
    for column, value in enumerate(mean):
        assert sum(row[column] for row in measured.values()) / 7 == pytest.approx(value, abs=1e-4)


def test_the_version_of_the_format_is_the_one_that_is_read():
    assert f"| index format | {FORMAT_VERSION};" in (DOCS / "limits.md").read_text(encoding="utf-8")
    form = (DOCS / "internals" / "format.md").read_text(encoding="utf-8")
    assert f"format version {FORMAT_VERSION}\n" in form
    assert f"| `format_version` | `{FORMAT_VERSION}`." in form


def test_every_note_of_the_laboratory_is_listed():
    listed = re.findall(r"\(([\w-]+\.md)\)", (DOCS / "lab" / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(page.name for page in (DOCS / "lab").glob("2*.md"))


def test_every_script_and_file_that_a_page_names_exists():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(
            r"\b(?:benchmarks|scripts|tests|examples|encoder|indexing|retriever)/[\w/-]*\w(?:\.\w+)?", text
        ):
            assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), f"{page} names {path}"


@pytest.mark.parametrize(
    "folder_of_code", ["encoder", "indexing", "retriever", "tests", "examples", "benchmarks"]
)
def test_pages_that_the_code_names_exist(folder_of_code):
    for path in (ROOT / folder_of_code).rglob("*.py"):
        for page in re.findall(r"\bdocs/[\w/-]+\.(?:md|svg|png)", path.read_text(encoding="utf-8")):
            assert (ROOT / page).exists(), f"{path} names {page}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_name_and_command(tmp_path, caplog):
    """Links and anchors too: mkdocs.yml makes a warning of a dead one, and an error of a warning."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    assert not caplog.records
    python = (tmp_path / "site" / "reference" / "python.html").read_text(encoding="utf-8")
    for surface in (latewood, encoder, indexing, retriever, retriever.evaluation):
        for public in set(surface.__all__) - {"__version__"}:
            assert re.search(rf'id="[\w.]+\.{public}"', python), f"{surface.__name__}.{public}"
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    for command, _ in site_hooks.commands(site_hooks.typer.main.get_command(site_hooks.app)):
        assert f'id="{command.replace(" ", "-")}"' in commands, command
    pages = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "site").rglob("*.html"))
    assert not re.search(r'<(?:link|script|img)[^>]+(?:href|src)="https?://(?!localhost)', pages)
