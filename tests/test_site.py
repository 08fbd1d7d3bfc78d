"""The pages in docs/: their blocks run and print what they show; the site builds; no page tells of its past."""

import ast
import codeop
import gzip
import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest

import encoder
import indexing
import latewood
import retriever
import retriever.evaluation
import retriever.serving
from indexing.storage.tables import FORMAT_VERSION
from scripts import site_hooks
from tests.helpers.pages import assert_prints, blocks, parse_commands, run_commands, run_page, shell_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FOLDERS = ("guides", "coming-from", "reference", "internals")
PAGES = sorted([*DOCS.glob("*.md"), *(page for folder in FOLDERS for page in (DOCS / folder).glob("*.md"))])
# Pages whose blocks make what they need; the others show forms and commands.
TO_DO = [
    page for page in PAGES if page.name == "quickstart.md" or page.parent.name in ("guides", "coming-from")
]
SLOW = {"train.md"}
PACKAGES = ("latewood", "encoder", "indexing", "retriever")

MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DATED = re.compile(rf"\d {MONTH} \d{{4}}|\d{{4}}-\d\d-\d\d|\bv?\d+\.\d+\.\d+\b|\bversions? \d")
PAST = re.compile(r"\b(?:was|were|had|has been|have been|now|since|before that)\b", re.IGNORECASE)
NEVER = re.compile(
    r"(?<!is )(?<!are )(?<!be )\bused to\b|no longer|\bformerly\b|\bpreviously\b|the default before|as before\b"
    r"|\banymore\b|in earlier versions|at the time of writing|of that day|\bday before\b",
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


@pytest.mark.parametrize("page", [ROOT / "README.md", *TO_DO], ids=lambda page: page.stem)
def test_blocks_can_be_typed_at_python_s_prompt(page):
    """Before 3.13 a block must be closed by an empty line there; a class has empty lines inside, and wants a file."""
    for block in blocks(page):
        if block.language == "python" and not block.title and "\nclass " not in block.text:
            typed: list[str] = []
            for line in [*block.text.splitlines(), ""]:
                typed.append(line)
                if codeop.compile_command("\n".join(typed), f"{page.name}:{block.line}") is not None:
                    typed.clear()
            assert not typed or typed == [""], f"{page.name}:{block.line}"


def test_what_a_page_shows_is_compared():
    assert_prints("a 1.00\n...\nz", "a 1.01\nb\nc\nz", "here")
    for shown, printed in (("a 1.0", "a 1.5"), ("a\n...\nz", "a\nb"), ("a", "a\nb"), ("1,000 b", "2,000 b")):
        with pytest.raises(AssertionError, match="here"):
            assert_prints(shown, printed, "here")
    with pytest.raises(AssertionError, match="--no-such"):
        parse_commands("latewood info x --no-such", "here")
    with pytest.raises(AssertionError, match="no command zzz"):
        parse_commands("latewood zzz x", "here")


def test_a_shell_s_lines_are_whole_and_torchrun_s_are_parsed():
    text = '# all\nrun="torchrun --n 8 -m -- retriever.cli info x"\n\n$run \\\n  --json  # why\nls\n'
    assert shell_lines(text) == ["torchrun --n 8 -m -- retriever.cli info x --json", "ls"]
    assert parse_commands(text, "here") == 1
    with pytest.raises(AssertionError, match="--no-such"):
        parse_commands(text.replace("json", "no-such"), "here")


# What lines of `sh` blocks begin with: by which test they are run, as they stand or with stand-ins; or why by none.
RUN = {
    r"latewood (search|index|evaluate) (\./encoder/model|code\.index|\./mine)": "tests/test_docs.py",
    r"latewood index \./src ": "tests/test_docs.py",
    r"latewood serve docs\.index": "tests/retriever/serving/test_process.py",
    r"latewood cluster build ": "tests/retriever/cluster/test_build.py",
    r"latewood cluster serve ": "tests/retriever/cluster/test_serve.py",
    r"latewood estimate sample\.jsonl ": "tests/retriever/cluster/test_sizes.py",
    r"curl -s '?localhost:8000/": "tests/retriever/serving/test_guide.py",
    r"latewood train (mine|colbert|classify) ": "tests/test_site.py",
    r"latewood evaluate \./nfcorpus --model models/b": "tests/test_site.py",
    r"latewood train average ": "tests/encoder/test_mlm.py",
    r"torchrun .* train (colbert|mlm) ": "tests/encoder/test_distributed.py",
}
NOT_RUN = {
    r"pip install ": "downloads; done by hand before a release, from the wheel",
    r"(claude|codex) mcp add ": "these programs are not on PyPI; the command that they are given is a test's",
    r"latewood evaluate (scifact|mldr-de) ": "downloads data sets",
    r"latewood import ": "reads other programs' indexes, of which tests/retriever/test_importing.py makes small ones",
    r"(openssl rand|docker compose) ": "wants Docker; tests/test_container.py lints its files and calls what they call",
    r"latewood train distill ": "its teacher encodes a whole vocabulary, a minute of a processor",
    r"python (benchmarks/|-m venv peers)": "minutes to hours of a processor; tests/test_benchmarks.py runs them small",
    r"(scripts/(test|check)|pytest) ?": "the tests themselves",
}


def test_each_command_of_the_pages_is_run_or_says_why_not():
    pages = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    lines = [
        line
        for page in pages
        for block in blocks(page)
        if block.language == "sh"
        for line in shell_lines(block.text)
    ]
    known = {**RUN, **NOT_RUN}
    assert [line for line in lines if not any(re.match(how, line) for how in known)] == []
    assert [how for how in known if not any(re.match(how, line) for line in lines)] == []
    for file in RUN.values():
        assert (ROOT / file).is_file(), file


@pytest.mark.slow
def test_the_commands_of_training_run_on_small_files(folder):
    """All but the first, for which the bundled model stands in; in few steps."""
    few = {"colbert": " --steps 1 --batch-size 8 --document-lengths 32 --warmup 0"}
    pairs = [{"query": f"what is {i} times two?", "pos": f"{i} times two is {2 * i}."} for i in range(60)]
    for name in ("medquad.jsonl.gz", "code.jsonl.gz", "glosses.jsonl.gz"):
        with gzip.open(name, "wt") as file:
            file.writelines(json.dumps(pair) + "\n" for pair in pairs)
    labels = [{"text": f"It is {i}.", "text_pair": f"Is it {i}?", "label": i % 2} for i in range(12)]
    for name in ("mnli", "mnli-dev", "rte", "rte-dev"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    for name in ("a", "base"):
        shutil.copytree(ROOT / "encoder" / "models" / "latewood-mini", f"models/{name}")
    Path("nfcorpus/qrels").mkdir(parents=True)
    Path("nfcorpus/corpus.jsonl").write_text('{"_id": "1", "text": "a cat"}\n')
    Path("nfcorpus/queries.jsonl").write_text('{"_id": "q", "text": "kitten"}\n')
    Path("nfcorpus/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    printed = {}
    for block in blocks(DOCS / "guides" / "train.md"):
        for line in shell_lines(block.text) if block.language == "sh" else ():
            if re.match(r"latewood (train (mine|colbert|classify)|evaluate) ", line):
                printed[line] = run_commands(line + few.get(line.split()[2], ""), folder)
    assert len(printed) == 6
    assert "nDCG@10  1.0000" in next(text for line, text in printed.items() if " evaluate " in line)
    for made in (
        "mined/medquad.jsonl.gz",
        "mined/code.jsonl.gz",
        *(f"models/{m}" for m in ("b", "mnli", "rte")),
    ):
        assert Path(made).exists(), made


def test_what_a_page_has_a_reader_paste_into_settings_can_be_read():
    commands = []
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("json", "toml"):
                held = (json if block.language == "json" else tomllib).loads(block.text)
                if page.name == "agents.md":
                    commands.append(started(held))
    assert len(commands) == 4
    for command in commands:
        assert command[:2] == ["latewood", "mcp"]
        assert parse_commands(" ".join(command), "agents.md") == 1


def started(settings):
    """What an agent's settings have it start: the command and its arguments."""
    if "command" in settings:
        command = settings["command"]
        return command if isinstance(command, list) else [command, *settings["args"]]
    [inner] = [value for value in settings.values() if isinstance(value, dict)]
    return started(inner)


def sentences(page):
    """Those of a page's prose: no code, no tables' rules."""
    return prose(page.read_text(encoding="utf-8"))


def prose(text):
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)\s]*\)", "]", re.sub(r"`[^`\n]*`", "`x`", text))
    return [
        " ".join(part.split())
        for part in re.split(r"(?<=[.:;!?])\s+|\n\s*\n|\n(?=[-|#*])", text)
        if part.strip()
    ]


def assert_timeless(found):
    for sentence in found:
        assert not NEVER.search(sentence), sentence
        assert not (DATED.search(sentence) and PAST.search(sentence)), sentence


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY"))],
    ids=lambda p: p.stem,
)
def test_a_page_has_no_history(page):
    assert_timeless(sentences(page))


def test_what_references_are_made_from_has_no_history():
    """Commands with their options, and the docstrings of whatever packages export."""
    assert_timeless(prose(site_hooks.command_reference()))
    homes = {home for surface in site_hooks.SURFACES[1:] for home in site_hooks.exported(surface).values()}
    homes.update(home for listed in site_hooks.FURTHER.values() for home in listed)
    assert len(homes) > 60
    for home in sorted(homes):
        module, _, name = home.rpartition(".")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                for part in ast.walk(node):
                    if isinstance(part, (ast.ClassDef, ast.FunctionDef)):
                        assert_timeless(prose(ast.get_docstring(part) or ""))


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


def test_the_readme_has_figures_of_the_benchmarks():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Figures") :].split("\n## ")[0]
    figures = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    [command] = re.findall(r"`(python benchmarks/[^`]*)`", section)
    assert command in figures
    number = r" ([\d.,+-]+) \|"
    rows = re.findall(rf"^\|[^|]*\|{6 * number}$", section, re.MULTILINE)
    assert len(rows) == 5
    for build, size, *searched in rows:
        median, many, recall, lost = map(re.escape, searched)
        assert re.search(rf"\| {build} \| \d \| {size}\b", figures), (build, size)
        row = rf"\| {median} \| [\d.]+ \| {many} \| {recall} \| [\d.]+ \({lost}\) \|"
        assert re.search(row, figures), searched
    for mean in re.findall(r"\b0\.\d{4}\b", section.rpartition("Quality")[2]):
        assert re.search(rf"mean of 7.*{mean}", figures), mean


def test_the_version_of_the_format_is_the_one_that_is_read():
    assert f"| index format | {FORMAT_VERSION};" in (DOCS / "limits.md").read_text(encoding="utf-8")
    form = (DOCS / "internals" / "format.md").read_text(encoding="utf-8")
    assert f"format version {FORMAT_VERSION}\n" in form
    assert f"| `format_version` | `{FORMAT_VERSION}`." in form


def test_the_first_page_names_every_guide():
    first = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        if page.parent.name in ("guides", "coming-from", "reference", "internals"):
            assert f"({name(page)})" in first, page


def test_the_quickstart_names_every_extra():
    text = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    assert [extra for extra in extras if f"`{extra}`" not in text] == []


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


def imported_by_pages():
    """(page, name) of all that blocks import from this project's packages."""
    for page in TO_DO:
        for block in blocks(page):
            if block.language == "python" and not block.title:
                for node in ast.walk(ast.parse(block.text)):
                    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                        yield from ((page, alias.name) for alias in node.names)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_name_and_command(tmp_path, caplog):
    """Links and anchors too: mkdocs.yml makes a warning of a dead one, and an error of a warning."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    assert not caplog.records
    python = (tmp_path / "site" / "reference" / "python.html").read_text(encoding="utf-8")
    for surface in (latewood, encoder, indexing, retriever, retriever.evaluation, retriever.serving):
        for public in set(surface.__all__) - {"__version__"}:
            assert re.search(rf'id="[\w.]+\.{public}"', python), f"{surface.__name__}.{public}"
    for page, used in imported_by_pages():
        assert re.search(rf'id="[\w.]+\.{used}"', python), f"{page.name} imports {used}"
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    for command, _ in site_hooks.commands(site_hooks.typer.main.get_command(site_hooks.app)):
        assert f'id="{command.replace(" ", "-")}"' in commands, command
    pages = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "site").rglob("*.html"))
    assert not re.search(r'<(?:link|script|img)[^>]+(?:href|src)="https?://(?!localhost)', pages)
