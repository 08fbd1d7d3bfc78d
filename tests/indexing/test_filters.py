"""Filters against a plain-Python evaluator and brute force; what they must refuse; writing with them."""

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from encoder import TokenEmbeddings
from encoder.errors import ArgumentError
from indexing import Index
from indexing.storage.dates import define_functions, read_date
from indexing.storage.filters import parse_filter, parse_key
from indexing.storage.reader import Reader
from indexing.storage.store import Store
from indexing.storage.tables import Change, DocumentRow, create
from indexing.writing.writer import Writer
from retriever import Searcher
from tests.helpers.fakes import DIM as WORD_DIM
from tests.helpers.fakes import FakeEncoder, assert_equals, corpus, record
from tests.retriever.test_searcher import DIM, assert_same, brute_force, clustered, unit

# The language, against an evaluator in Python ---------------------------------------------------------------


class Moment(str):
    """A date that a filter compares as one."""

    when: datetime


def moment(text):
    """By Python's own reading; None for what is no date."""
    if not isinstance(text, str) or not re.match(r"\d{4}-\d\d-\d\d([T ]|$)", text):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None


def read_moment(text):
    made = Moment(text)
    made.when = moment(text)
    return made


KEYS = ["n", "s", "é", "odd key", "a.b", "it's", "Select", "back\\slash", "not"]
PATHS = [*([key] for key in KEYS), ["o", "n"], ["o", "s"], ["o", "deep", "n"]]
SMALL_TEXT = st.text("aAbé%_'\" ", max_size=4) | st.sampled_from(["1", "true", "null", "[1]", "💥"])
NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([0.5, -0.0, 1.0, 2.5, 0.1, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63, 2**70, 1e300])
    | st.floats(-1e6, 1e6)
)
LITERALS = SMALL_TEXT | NUMBERS | st.booleans()
DATES = st.builds(
    lambda moment, form, zone: moment.strftime(form) + (zone if "%H" in form else ""),
    st.datetimes(datetime(2024, 2, 28), datetime(2024, 3, 1)),
    st.sampled_from(
        ["%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"]
    ),
    st.sampled_from(["", "Z", "+00:00", "+01:00", "-11:30"]),
) | st.sampled_from(["2024-02-29", "2024-02-29T00:00Z", "2024-02-29T01:00+01:00"])
ITEMS = st.lists(LITERALS | st.none() | st.lists(NUMBERS, max_size=1), max_size=3)
VALUES = st.none() | LITERALS | DATES | ITEMS | st.just("") | st.just("[]")
OBJECTS = st.fixed_dictionaries(
    {}, optional={"n": VALUES, "s": SMALL_TEXT, "deep": st.fixed_dictionaries({}, optional={"n": VALUES})}
)
METADATA = st.fixed_dictionaries({}, optional={**dict.fromkeys(KEYS, VALUES), "o": OBJECTS | VALUES})

KEY = st.sampled_from(PATHS)
NAMES = st.sampled_from([*PATHS, None])  # None: doc_id, which is compared with strings only
COMPARISONS = st.one_of(
    st.tuples(st.sampled_from(["=", "!="]), KEY, LITERALS),
    st.tuples(st.sampled_from(["<", "<=", ">", ">="]), KEY, SMALL_TEXT | NUMBERS),
    st.tuples(st.sampled_from(["in", "not in"]), KEY, st.lists(LITERALS, min_size=1, max_size=4)),
    st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), NAMES, SMALL_TEXT),
    st.tuples(st.sampled_from(["in", "not in"]), NAMES, st.lists(SMALL_TEXT, min_size=1, max_size=4)),
    st.tuples(st.sampled_from(["like", "not like"]), NAMES, SMALL_TEXT),
    st.tuples(st.sampled_from(["contains", "not contains"]), KEY, LITERALS),
    st.tuples(st.sampled_from(["contains", "icontains", "not icontains"]), NAMES, SMALL_TEXT),
    st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), KEY, DATES.map(read_moment)),
    st.tuples(
        st.sampled_from(["in", "not in"]),
        KEY,
        st.lists(DATES.map(read_moment) | LITERALS, min_size=1, max_size=3),
    ),
    st.tuples(st.sampled_from(["is null", "is not null", "is empty", "is not empty"]), NAMES, st.none()),
)
EXPRESSIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=4)),
    ),
    max_leaves=8,
)


def literal(value):
    if isinstance(value, Moment):
        return f"date '{value}'"
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def name(path):
    if path is None:
        return "doc_id"
    return ".".join(key if re.fullmatch("n|s|o|deep|é|Select", key) else f'"{key}"' for key in path)


def written(expression):
    """The expression in the language of filters."""
    operator, first, *rest = expression
    if operator == "not":
        return f"NOT ({written(first)})"
    if operator in ("and", "or"):
        return f" {operator}\n".join(f"({written(part)})" for part in first)
    if operator in ("in", "not in"):
        return f"{name(first)} {operator} ({', '.join(map(literal, rest[0]))})"
    if rest == [None]:
        return f"{name(first)} {operator}"
    return f"{name(first)} {operator} {literal(rest[0])}"


def met(expression, doc_id, metadata):
    """True, False or None (unknown), by SQL's rules."""
    operator, first, *rest = expression
    if operator == "not":
        inner = met(first, doc_id, metadata)
        return None if inner is None else not inner
    if operator in ("and", "or"):
        parts = [met(part, doc_id, metadata) for part in first]
        decisive = operator == "or"
        return decisive if decisive in parts else None if None in parts else not decisive
    value = doc_id if first is None else metadata
    for key in first or ():
        value = value.get(key) if isinstance(value, dict) else None
    if operator in ("is null", "is not null"):
        return (value is None) == (operator == "is null")
    if operator in ("is empty", "is not empty"):
        return (value in (None, "", [])) == (operator == "is empty")
    if value is None:
        return None
    if operator.startswith("not "):
        return not compared(operator[4:], value, rest[0])
    return compared(operator, value, rest[0])


def compared(operator, value, wanted):
    if operator == "in":
        return any(compared("=", value, one) for one in wanted)
    if operator == "!=":
        return not compared("=", value, wanted)
    if operator == "icontains":
        return isinstance(value, str) and wanted.lower() in value.lower()
    if operator == "contains":
        inside = isinstance(value, str) and isinstance(wanted, str) and wanted in value
        return inside or (
            isinstance(value, list) and any(compared("=", item, wanted) for item in value if item is not None)
        )
    if isinstance(wanted, Moment):
        one, two = moment(value), wanted.when
        if one is None:
            return False
        if (one.tzinfo is None) != (two.tzinfo is None):
            one, two = (
                one.replace(tzinfo=one.tzinfo or two.tzinfo),
                two.replace(tzinfo=two.tzinfo or one.tzinfo),
            )
        return {"=": one == two, "<": one < two, "<=": one <= two, ">": one > two, ">=": one >= two}[operator]
    if kind(value) != kind(wanted):
        return False
    if operator == "like":
        pattern = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in lower(wanted))
        return re.fullmatch(pattern, lower(value), re.DOTALL) is not None
    a, b = number(value), number(wanted)
    return (
        {"=": a == b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]
        if a is not None
        else False
    )


def kind(value):
    return next(k for k in (bool, str, list, dict, (int, float)) if isinstance(value, k))


def number(value):
    """What SQLite makes of it: integers beyond 64 bits are float64."""
    big = isinstance(value, int) and not -(2**63) <= value < 2**63
    return float(value) if big else value


def lower(text):
    return "".join(c.lower() if c.isascii() else c for c in text)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("filters") / "index.db"
    create(path.parent, {})
    store = Store(path)
    store.bury()
    for i, key in enumerate(["n", "o.s", '"odd key"', '"it\'s"'], 1):  # the others have no index
        store.commit(Change(replace(Reader(path).state, generation=i), metadata_index=parse_key(key)))
    yield store
    store.close()


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    docs=st.lists(METADATA, min_size=1, max_size=8), expressions=st.lists(EXPRESSIONS, min_size=1, max_size=6)
)
def test_sql_gives_what_python_gives(store, docs, expressions):
    state = Reader(store.path).state
    first = state.next_document
    rows = [
        DocumentRow(first + i, "aAb%é"[i % 5] + f"{i}", "", json.dumps(metadata))
        for i, metadata in enumerate(docs)
    ]
    state = replace(state, generation=state.generation + 1, next_document=first + len(docs))
    store.commit(Change(state, documents=rows))
    reader = Reader(store.path)
    try:
        for expression in expressions:
            text = written(expression)
            found = reader.matching(parse_filter(text, reader.metadata_indexes))
            expected = [
                row.document
                for row, metadata in zip(rows, docs, strict=True)
                if met(expression, row.doc_id, metadata) is True
            ]
            assert found.tolist() == expected, text
    finally:
        reader.close()
        state = replace(state, generation=state.generation + 1)
        store.commit(Change(state, deleted=[row.document for row in rows]))


def matching(text, *documents):
    """Which of the documents, from 0, a filter finds."""
    with closing(sqlite3.connect(":memory:")) as connection:
        define_functions(connection)
        connection.execute("CREATE TABLE documents (pid INTEGER PRIMARY KEY, doc_id TEXT, metadata TEXT)")
        connection.executemany(
            "INSERT INTO documents VALUES (?, ?, ?)",
            ((i, f"d{i}", json.dumps(metadata)) for i, metadata in enumerate(documents)),
        )
        condition = parse_filter(text)
        rows = connection.execute(f"SELECT pid FROM documents WHERE {condition.sql}", condition.parameters)
        return sorted(pid for (pid,) in rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n = 1 or n = 2 and s = 'x'", [0, 1]),  # and binds closer than or
        ("(n = 1 or n = 2) and s = 'x'", [1]),
        ("not n = 1 and s = 'x'", [1]),  # not binds closer than and
        ("not not n = 1", [0]),
        ("n=+1", [0]),
        ("n = 1.", [0]),
        ("n? = 1", [0]),
        ('"n" ? is null', [2, 3]),
        ("n < 1e1 AND n >= .5", [0, 1]),
        ("s = 'it''s'", [2]),
        ("s = ''", [3]),
        ('"doc_id" = 7', [3]),  # in quotes it is the metadata key
        ("doc_id = 'd3'", [3]),
        ("doc_id.x = 7", [2]),
        ("doc_id is null", []),
        ("n is null", [2, 3]),
    ],
)
def test_precedence_and_spelling(text, expected):
    documents = [
        {"n": 1, "s": "y"},
        {"n": 2, "s": "x"},
        {"s": "it's", "doc_id": {"x": 7}},
        {"n": None, "s": "", "doc_id": 7},
    ]
    assert matching(text, *documents) == expected


def test_dates_are_read_as_python_reads_them():
    """And what only looks like one is none."""
    for text in (
        "2024-02-29",
        "0001-01-01",
        "9999-12-31T23:59:59.999999",
        "2024-02-29T07:05:09.000001-23:59",
    ):
        given, found = datetime.fromisoformat(text), read_date(text)
        since = given.replace(tzinfo=None) - datetime(1, 1, 1)
        assert timedelta(microseconds=found.wall) == since
        assert (found.offset and timedelta(microseconds=found.offset)) == given.utcoffset()
    for text in (
        "2024",
        "2024-2-29",
        "2023-02-29",
        "2024-02-29T24:00",
        "2024-02-29T10:00+24:00",
        "２０２４-02-29",
        "May 5",
    ):
        assert read_date(text) is None
    assert read_date("2024-02-29T10:00:00.1234567z") == read_date("2024-02-29 10:00:00.123456+0000")


def test_a_date_without_a_zone_is_in_the_zone_of_the_other():
    days = [
        {"d": "2024-05-31T10:00"},
        {"d": "2024-05-31T10:00+02:00"},
        {"d": "2024-05-31T08:00Z"},
        {"d": 5},
        {},
    ]
    assert matching("d = date '2024-05-31T10:00+02:00'", *days) == [0, 1, 2]
    assert matching("d = date '2024-05-31T10:00'", *days) == [0, 1]
    assert matching("d < date '2024-05-31T10:00'", *days) == [2]
    assert matching("not d < date '2024-05-31T10:00'", *days) == [0, 1, 3]
    assert matching("d in (date '2024-05-31T08:00Z', 5)", *days) == [1, 2, 3]


@pytest.mark.slow
def test_long_and_deep_filters():
    assert matching(" or ".join(f"n = {i}" for i in range(400)), {"n": 399}) == [0]
    assert matching(f"n in ({', '.join(map(str, range(50_000)))})", {"n": 49_999}, {"n": -1}) == [0]
    assert matching("(" * 99 + "n = 1" + ")" * 99, {"n": 1}) == [0]
    with pytest.raises(ArgumentError, match="expected at most 100 levels of not and parentheses"):
        parse_filter("(" * 100_000)
    with pytest.raises(ArgumentError, match="expected at most 400 comparisons"):
        parse_filter(" or ".join(f"n = {i}" for i in range(401)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "filter ends at position 1; expected the name of a key"),
        ("lang == 'py'", "filter has '==' at position 6; .*; use ="),
        ("lang <> 'py'", "filter has '<>' at position 6; .*; use !="),
        ("a = 1 && b = 2", "filter has '&&' at position 7; .*; use and"),
        ("a = 1 || b = 2", "filter has '||' at position 7; .*; use or"),
        ("!a = 1", "filter has '!' at position 1; .*; use not"),
        ("doc_id = 7", "filter has '7' at position 10; expected a 'string', as every doc_id is"),
        ("doc_id >= 7", "filter has '7' at position 11; expected a 'string', as every doc_id is"),
        ("doc_id != true", "filter has 'true' at position 11; expected a 'string', as every doc_id is"),
        ("doc_id in ('a', 7, 'b')", "filter has '7' at position 17; expected a 'string', as every doc_id is"),
        (
            "lang",
            "filter ends at position 5; expected =, !=, <, <=, >, >=, in, not in, like, contains, icontains or is",
        ),
        ('lang = "py"', "filter has '\"py\"' at position 8; .* (strings take single quotes)"),
        ("a = b", "filter has 'b' at position 5; expected a 'string'"),
        ("a = null", "filter has 'null' at position 5; .* (to compare with null write: is null)"),
        ("a in (1, null)", "position 10; .* (to compare with null write: is null)"),
        ("a < true", "filter has 'true' at position 5; .* (true and false take = and !=)"),
        ("a = 'x' and", "filter ends at position 12; expected the name of a key"),
        ("(a = 1", "filter ends at position 7; expected and, or, or )"),
        ("a = 1)", "filter has ')' at position 6; expected and, or, or the end"),
        ("a = 1 b = 2", "filter has 'b' at position 7; expected and, or, or the end"),
        ("a = 'it''s", "filter has a quote that is never closed ('it''s) at position 5"),
        ('"a = 1', "filter has a quote that is never closed"),
        ('"" = 1', "filter has '\"\"' at position 1; expected the name of a key"),
        ("a. = 1", "filter has '=' at position 4; expected a name"),
        ("a in ()", "filter has ')' at position 7; expected a 'string'"),
        ("a in 1", "filter has '1' at position 6; expected ("),
        ("a in (1", "filter ends at position 8; expected , or )"),
        ("a like 1", "filter has '1' at position 8; expected a 'pattern'"),
        (f"a like '{'%' * 10_001}'", "at position 8; expected a pattern of at most 10000 bytes"),
        ("a is 5", "filter has '5' at position 6; expected null, empty, not null or not empty"),
        ("a is not 5", "filter has '5' at position 10; expected null or empty"),
        ("a not = 5", "filter has '=' at position 7; expected in, like, contains or icontains"),
        ("doc_id? = 'x'", "filter has '?' at position 7; expected =, !="),
        ("a?? = 1", "filter has '?' at position 3; expected =, !="),
        ("a?.b = 1", "filter has '.' at position 3; expected =, !="),
        ("a > date", "filter ends at position 9; expected a date such as '2024-05-31'"),
        ("a > date 2024", "filter has '2024' at position 10; expected a date such as '2024-05-31'"),
        ("a > date 'May'", "filter has \"'May'\" at position 10; expected a date such as '2024-05-31'"),
        ("a = date '2024-02-30'", "position 10; expected a date such as '2024-05-31'"),
        ("a contains date '2024-02-28'", "position 12; expected a 'string', a number, true or false"),
        ("a contains (1, 2)", "filter has '(' at position 12; expected a 'string', a number, true or false"),
        ("a icontains 7", "filter has '7' at position 13; expected a 'string'"),
        ("doc_id = date '2024-02-28'", "position 10; expected a 'string', as every doc_id is"),
        ("doc_id contains 7", "filter has '7' at position 17; expected a 'string', as every doc_id is"),
        ("1 = a", "filter has '1' at position 1; expected the name of a key"),
        ("and = 1", "filter has 'and' at position 1; expected the name of a key"),
        ("a = 1; DROP TABLE documents", "filter has '; DROP TABLE documents' at position 6"),
        ("a = 1 -- x", "filter has '-- x' at position 7"),
        ("a = 10abc", "filter has '10abc' at position 5"),
        ("a = 1e999", "filter has '1e999' at position 5; expected a number within float64"),
        (f"a = {'9' * 5000}", "expected a number within float64"),
        ("a = 'x\0'", "position 5; expected a string without NUL characters"),
        ("a = '\ud800'", "filter has a lone surrogate at position 6; pass valid Unicode"),
        (7, "filter is int; pass a string"),
    ],
)
def test_what_is_wrong_is_told_with_its_position(text, message):
    with pytest.raises(ArgumentError, match=re.escape(message).replace(r"\.\*", ".*")) as caught:
        parse_filter(text)
    assert "\n" not in str(caught.value)


SQL = re.compile(
    r"(json_extract|json_type|json_each|nullif|ifnull|instr|lowered|date_order|metadata|doc_id|value|type"
    r"|SELECT|FROM|WHERE|EXISTS|AND|OR|NOT|IN|IS|NULL|LIKE|CASE|WHEN|THEN|ELSE|END"
    r"|'(null|text|integer|real|true|false|array|\[\]|\$)?'|\?\d+|[01]|[=<>(), ])*"
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [
                "n",
                '"',
                "'",
                "(",
                ")",
                " ",
                "=",
                " in ",
                " or ",
                "not ",
                "--",
                ";",
                "?1",
                "1",
                ",",
                "like",
                " contains ",
                "icontains",
                " is empty",
                "date",
                "'2024-02-29'",
                "\n",
            ]
        )
    ).map("".join)
    | EXPRESSIONS.map(written)
)
@example('"\r')
def test_no_text_of_the_user_becomes_sql(text):
    told = ""
    try:
        sql = parse_filter(text).sql
    except ArgumentError as error:
        sql, told = "", str(error)
    assert SQL.fullmatch(sql)
    assert len(told.splitlines()) <= 1


ATTACKS = [
    "'; DROP TABLE documents; --",
    "x' OR '1'='1",
    "') OR 1=1 --",
    '$."n"',
    "?1",
    "\\",
    "%' OR doc_id LIKE '%",
    "json_extract(metadata, '$')",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_data(tmp_path: Path, attack: str):
    with Index.create(tmp_path / "x", FakeEncoder(WORD_DIM)) as index:
        index.add([record(0, "w1", s="x"), record(1, "w2", s=attack), {"doc_id": attack, "text": "w3"}])

        def found(text):
            names = ["d0", "d1", attack]
            return sorted(names.index(doc_id) for doc_id in index.ids(text))

        quoted = "'" + attack.replace("'", "''") + "'"
        for text, expected in [
            (f"s = {quoted}", [1]),
            (f"s in ({quoted})", [1]),
            (f"doc_id = {quoted}", [2]),
            (f"s != {quoted}", [0]),
        ]:
            assert found(text) == expected
        if '"' in attack:
            with pytest.raises(ArgumentError):
                index.create_metadata_index(f'"{attack}"')
            return
        index.update_metadata({"d0": {attack: 1}, "d1": {attack: {attack: 2}}})
        for _ in range(2):
            assert found(f'"{attack}" = 1') == [0]
            assert found(f'"{attack}"."{attack}" = 2') == [1]
            index.create_metadata_index(f'"{attack}"')
            index.create_metadata_index(f'"{attack}"."{attack}"')
        assert len(index.snapshot().reader.metadata_indexes) == 2
        index.verify()


# Searching, against brute force -----------------------------------------------------------------------------

N = 120


@pytest.fixture(scope="module", params=["flat", "compressed", "mixed"])
def folder(request, tmp_path_factory):
    """N passages p0, p1, ... with metadata n, half of them even; p3 and p4 deleted, p5 replaced."""
    random = np.random.default_rng(5)
    path = tmp_path_factory.mktemp(request.param) / "x"
    vectors = clustered(random, [10] * N)
    flat_tokens = 10**6 if request.param == "flat" else 800
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "mixed":  # as a writer would leave it that compresses little by little
            patch.setattr(Writer, "_groups", lambda self: [[self.snapshot.segments[1]]])
            patch.setattr("indexing.writing.writer.small_run", lambda segments: [])
        with Index.create(path, dim=DIM, flat_tokens=flat_tokens) as index:
            for part in np.array_split(np.arange(N), 3):
                index.add_embeddings(
                    [f"p{i}" for i in part],
                    TokenEmbeddings.from_list([vectors[int(i)] for i in part], DIM),
                    metadata=[{"n": int(i), "even": bool(i % 2 == 0)} for i in part],
                )
            index.delete(["p3", "p4"])
            index.add_embeddings(
                ["p5"], TokenEmbeddings.from_list([vectors[6]], DIM), metadata=[{"n": 5, "even": False}]
            )
            with index.snapshot() as now:
                kinds = {segment.kind for segment in now.segments}
    assert kinds == ({"flat", "compressed"} if request.param == "mixed" else {request.param})
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "meets"),
    [
        ("n < 0", lambda n: False),
        ("doc_id = 'p4'", lambda n: False),  # it was deleted
        ("n = 77", lambda n: n == 77),
        ("n = 5", lambda n: n == 5),
        ("even = true", lambda n: n % 2 == 0),
        ("n >= 0", lambda n: True),
        (None, lambda n: True),
    ],
)
def test_exactly_the_k_best_that_meet_the_filter(folder, text, meets):
    random = np.random.default_rng(2)
    with Searcher.open(folder) as searcher:
        matching = {f"p{n}" for n in range(N) if n not in (3, 4) and meets(n)}
        now = searcher.snapshot
        assert set(now.ids(text)) == matching
        assert sum(mask.sum() for mask in now.select(text).lives) == len(matching)
        codec = now.codec
        thorough = {"nprobe": codec.nlist, "nrerank": 10**6, "ncandidates": 10**6} if codec else {}
        for _ in range(3):
            query = unit(random, 6)
            expected = {d: s for d, s in brute_force(now, query).items() if d in matching}
            for k in (1, 10, N, 10 * N):
                assert_same(searcher.search_embeddings(query, k=k, filter=text, **thorough), expected, k)
                for limits in ({}, {"nprobe": 1, "nrerank": k, "ncandidates": k}):
                    hits = searcher.search_embeddings(query, k=k, filter=text, **limits)
                    assert len(hits) == len({hit.doc_id for hit in hits}) == min(k, len(matching))
                    for hit in hits:
                        assert hit.score == pytest.approx(expected[hit.doc_id], abs=1e-3)


def test_search_and_search_many_take_a_filter(tmp_path):
    encoder = FakeEncoder(dim=DIM)
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(record(i, f"word{i} common", n=i) for i in range(20))
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        hits = searcher.search("word7", k=3, filter="n > 7 and n < 10")
        assert {hit.doc_id for hit in hits} == {"d8", "d9"}
        assert searcher.search_many({"a": "word7"}, k=3, filter="n > 7 and n < 10") == {"a": hits}
        for search in (searcher.search, lambda q, filter: searcher.search_many({"a": q}, filter=filter)):
            with pytest.raises(ArgumentError, match="filter ends at position 2"):
                search("word7", filter="n")


# Writing ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_delete_by_filter(tmp_path):
    encoder = FakeEncoder(WORD_DIM)
    docs = corpus(40)
    with Index.create(tmp_path / "x", encoder, flat_tokens=300) as index:
        index.add(docs)
        with Index.open(tmp_path / "x") as reader:
            assert index.delete(filter="n >= 10 and n < 20 or doc_id = 'd0'") == 11
            assert len(reader) == 40
            assert len(list(reader.ids("n < 20"))) == 20  # of the reader's moment
            assert reader.reload()
            assert len(list(reader.ids("n < 20"))) == 9
        left = {d["doc_id"]: (d["text"], d["metadata"]) for d in docs[1:10] + docs[20:]}
        assert_equals(index, left, encoder)
        assert index.delete(filter="n < 0") == 0
        for arguments in ({}, {"doc_ids": ["d1"], "filter": "n = 1"}):
            with pytest.raises(ArgumentError, match="pass doc_ids, or filter="):
                index.delete(**arguments)
        with pytest.raises(ArgumentError, match="filter has '==' at position 3"):
            index.delete(filter="n ==")
        assert index.delete([]) == 0
        assert_equals(index, left, encoder)
        index.compact()
        assert_equals(index, left, encoder)
        index.verify()


def test_metadata_is_updated_without_encoding(tmp_path):
    encoder = FakeEncoder(WORD_DIM)
    docs = corpus(10)
    model = {d["doc_id"]: (d["text"], d["metadata"]) for d in docs}
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(docs)
        with Index.open(tmp_path / "x") as reader:
            new = {"d1": {"new": [1, None]}, "d2": {}, "d3": {"n": 3}}  # d3 has it already
            assert index.update_metadata(new) == 2
            assert_equals(reader, model, encoder)
            model |= {doc_id: (model[doc_id][0], metadata) for doc_id, metadata in new.items()}
            reader.reload()
            assert_equals(reader, model, encoder)
        assert len(encoder.encoded) == 10
        assert index.add([record(1, docs[1]["text"], new=[1, None])]).unchanged == 1
        for bad, message in [
            ({"d5": {}, "unknown": {}}, "doc_id 'unknown' is not stored; store it by add"),
            ({"d5": {}, "d6": {"x": {1}}}, r"doc_id 'd6' has metadata\['x'\] of type set"),
            ({"d5": {}, "d6": None}, "doc_id 'd6' has metadata None; pass a dict"),
            ([("d5", {})], "metadata is list; pass {doc_id: metadata}"),
        ]:
            with pytest.raises(ArgumentError, match=message):
                index.update_metadata(bad)
        assert index.update_metadata({}) == 0
        assert_equals(index, model, encoder)
        index.verify()


def test_a_metadata_index_is_used_and_kept_up_to_date(tmp_path):
    encoder = FakeEncoder(WORD_DIM)

    def plan(index, text):
        reader = index.snapshot().reader
        condition = parse_filter(text, reader.metadata_indexes)
        sql = f"EXPLAIN QUERY PLAN SELECT document FROM documents WHERE {condition.sql}"
        return " ".join(str(row[-1]) for row in reader.rows(sql, condition.parameters))

    def found(index, text):
        return set(index.ids(text))

    with Index.create(tmp_path / "x", encoder) as index:
        index.add([record(i, f"w{i % 12}", n=i, o={"s": f"s{i}"}) for i in range(50)])
        old = Index.open(tmp_path / "x")
        assert "SCAN documents" in plan(index, "n = 7")
        for _ in range(2):  # the second time it is there already
            index.create_metadata_index("n")
            index.create_metadata_index("o.s")
        assert index.snapshot().reader.metadata_indexes == {'$."n"': "metadata_1", '$."o"."s"': "metadata_2"}
        for text in ("n = 7", "n < 7.5", "n in (1, 'x', 7)", "n = 7 and lang = 'py'", "n = 7 or o.s = 's9'"):
            assert "USING INDEX documents_metadata_" in plan(index, text)
            assert "SCAN documents" not in plan(index, text)
        assert found(index, "n = 7 or o.s = 's9'") == found(old, "n = 7 or o.s = 's9'") == {"d7", "d9"}
        old.reload()
        assert "USING INDEX" in plan(old, "n = 7")
        old.close()
        index.add([record(7, "w7", n="seven"), record(50, "w2", n=7)])
        index.update_metadata({"d9": {"n": 7}})
        index.delete(["d8"])
        index.compact()
        index.verify()
    with Index.open(tmp_path / "x") as index:
        assert found(index, "n = 7") == {"d50", "d9"}
        assert found(index, "n = 'seven'") == {"d7"}
        assert found(index, "n = 8") == set()
        with pytest.raises(ArgumentError, match="not open for writing"):
            index.create_metadata_index("x")
    with pytest.raises(ArgumentError, match="key has '=' at position 3; expected a dot or the end"):
        parse_key("n = 1")


# Keys that nothing has -----------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path):
    with Index.create(tmp_path / "x", FakeEncoder(WORD_DIM)) as index:
        index.add([record(0, "w1", year=2020, repo={"name": "a", "stars": 3}), record(1, "w2", lang="py")])
        yield index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "yeer >= 2020",
            "filter has the key yeer at position 1, which no document has ever had; did you mean year?",
        ),
        ("lang = 'py' or Year = 3", "the key Year at position 16, .*; did you mean year?"),
        ("not (repo.nam = 'a')", "the key repo.nam at position 6, .*; did you mean repo.name"),
        ("zzz is null", "the key zzz at position 1, .*; there are lang, repo, repo.name, repo.stars, year"),
        ("year.month = 1", "the key year.month at position 1"),
        ('"doc_id" = 1', "the key doc_id at position 1"),
    ],
)
def test_a_key_that_nothing_ever_had_is_refused_with_those_near(index, text, message):
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with Searcher(index, FakeEncoder(WORD_DIM)) as searcher:
        for ask in (
            lambda: searcher.search("w1", filter=text),
            lambda: searcher.search("w1", filter=text, mode="lexical"),
            lambda: searcher.search_embeddings(np.ones((1, WORD_DIM)), filter=text),
            lambda: index.delete(filter=text),
            lambda: index.ids(text),
        ):
            with pytest.raises(ArgumentError, match=pattern):
                ask()
    assert len(index) == 2


def test_a_key_that_something_once_had_may_be_asked_for(index, tmp_path):
    index.delete(["d0"])
    assert list(index.ids("year >= 2020 or repo.stars = 3")) == []
    index.compact()
    assert list(index.ids("year is null")) == ["d1"]
    index.update_metadata({"d1": {"late": {"comer": 1}}})
    assert list(index.ids("late.comer = 1 and lang is null")) == ["d1"]
    with Index.open(tmp_path / "x") as reader:
        assert list(reader.ids("late.comer = 1")) == ["d1"]
        with pytest.raises(ArgumentError, match="the key comer"):
            reader.ids("comer = 1")


def test_an_empty_index_may_be_asked_for_any_key(tmp_path):
    with Index.create(tmp_path / "x", FakeEncoder(WORD_DIM)) as index:
        assert list(index.ids("year >= 2020")) == []
        index.add([{"doc_id": "a", "text": "w1"}])
        with pytest.raises(ArgumentError, match=r"the key year .*; there are none"):
            index.ids("year >= 2020")


def test_deep_keys_and_keys_without_end(tmp_path, monkeypatch):
    with Index.create(tmp_path / "x", FakeEncoder(WORD_DIM)) as index:
        index.add([record(0, "w1", a={"b": {"c": {"d": {"e": 1}}}})])
        assert list(index.ids("a.b.c.d.e = 1")) == ["d0"]
        assert list(index.ids("a.b.c.d.f = 1")) == []  # known by four names
        with pytest.raises(ArgumentError, match=r"the key a.b.c.e"):
            index.ids("a.b.c.e = 1")
        monkeypatch.setattr("indexing.storage.store.MOST_KEYS", 10)
        index.add([record(1, "w2", **{f"key{i}": i for i in range(20)})])
        assert list(index.ids("nothing = 1")) == []  # keys made from data are not checked
        index.add([record(2, "w2", more=1)])
        assert list(index.ids("more = 1")) == ["d2"]


def test_documents_are_read_by_doc_id(index):
    index.add([record(2, "w3")])
    index.delete(["d1"])
    index.add([record(0, "w4", year=2021)])  # replaced, so added last
    assert list(index.ids()) == ["d2", "d0"]
    assert list(index.ids("year = 2021")) == ["d0"]
    assert [d.text for d in index] == ["w3", "w4"]
    d0, none, d2, again = index.get(["d0", "7", "d2", "d0"])
    assert (d0.doc_id, d0.text, d0.metadata) == ("d0", "w4", {"year": 2021})
    assert none is None
    assert d2.text == "w3"
    assert again == d0
    for wrong in ("d0", [0], [None], 7):
        with pytest.raises(ArgumentError, match=r"doc_ids.*; pass (strings|a list of strings)"):
            index.get(wrong)
    assert not hasattr(index, "documents")
    assert not hasattr(d0, "pid")
