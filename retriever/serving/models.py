"""What searches are asked with and answered by: pydantic models of requests, typed dictionaries of answers.

The options of a search are the fields of SearchOptions, so that HTTP, flags and Python agree.
"""

import math
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from typing_extensions import NotRequired, TypedDict

from encoder.arguments import shown as written
from encoder.errors import ArgumentError
from retriever.code.search import CodeHit, CodeOptions
from retriever.explaining import Explanation
from retriever.hits import Hit
from retriever.options import SearchOptions

__all__ = [
    "DocumentJson",
    "Explain",
    "ExplanationJson",
    "HitJson",
    "Info",
    "Infos",
    "ResultJson",
    "SearchBody",
    "SearchParameters",
    "SearchedJson",
    "SearchesJson",
    "Shown",
    "code_options_of",
    "hit_json",
    "option_fields",
    "options_of",
]

Explain: TypeAlias = bool | Literal["full"]
EXPLAIN = Field(
    False,
    description="Say which token of the passage each token of the query matched; full: all similarities too.",
)


def option_fields(kind: type[Any]) -> dict[str, Any]:
    """Fields of a model from those of an options dataclass: its types, defaults and help."""
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for field in fields(kind):
        hint: Any = hints[field.name]
        numbers: dict[str, Any] = {}
        if hint in (int, int | None):
            numbers = {"ge": 1}
        elif hint == tuple[float, float] | None:  # JSON has lists
            hint = Annotated[list[float], Field(min_length=2, max_length=2)] | None
        elif hint == tuple[str, ...]:
            hint = list[str]
        default: Any = list(field.default) if isinstance(field.default, tuple) else field.default
        found[field.name] = hint, Field(default, description=field.metadata["help"], **numbers)
    return found


class Shown(BaseModel):
    """How hits are shown, and whether as code."""

    model_config = ConfigDict(extra="forbid")
    explain: Explain = EXPLAIN
    text: bool = Field(True, description="Whether hits have the document's text; the passage has its own.")
    code: bool | None = Field(
        None,
        description="Rank by the rules for code, with path, line and symbol; by default where the index holds code.",
    )


_Options = create_model(
    "_Options", __base__=Shown, **option_fields(SearchOptions), **option_fields(CodeOptions)
)


class SearchParameters(_Options):  # type: ignore[valid-type,misc]
    """The parameters of a search by GET."""

    q: str = Field(description="What to look for.", examples=["who sets the cost of borrowing?"])


class SearchBody(_Options):  # type: ignore[valid-type,misc]
    """A search: one query, or several with the same options."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "oneOf": [{"required": ["query"]}, {"required": ["queries"]}],
            "examples": [
                {"query": "who sets the cost of borrowing?", "k": 3, "explain": True},
                {"queries": ["the heart", "a bank"], "mode": "hybrid", "filter": "length < 100"},
            ],
        },
    )
    query: str = Field("", description="What to look for.")
    queries: list[str] = Field([], description="In place of query: several, answered together.", min_length=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> "SearchBody":
        if ("query" in self.model_fields_set) == ("queries" in self.model_fields_set):
            raise ValueError("pass query, or queries, and not both")
        return self


def options_of(asked: Shown, max_k: int) -> SearchOptions:
    """Raises ArgumentError for options that cannot work."""
    given = {field.name: getattr(asked, field.name) for field in fields(SearchOptions)}
    if given["k"] > max_k:
        raise ArgumentError(f"k={written(given['k'])}; pass k <= {max_k}")
    if given["weights"] is not None:
        given["weights"] = tuple(given["weights"])
    return SearchOptions(**given)


def code_options_of(asked: Shown, holds_code: bool) -> CodeOptions | None:
    """None for documents of any kind. holds_code: of the index. Raises ArgumentError for options of code without it."""
    given = CodeOptions(**{field.name: getattr(asked, field.name) for field in fields(CodeOptions)})
    if given == CodeOptions():
        documents_only = getattr(asked, "by") == "passage"  # noqa: B009  (made of SearchOptions' fields)
        return given if asked.code or (asked.code is None and holds_code and not documents_only) else None
    if asked.code is False:
        raise ArgumentError(
            "languages, paths, regex and plain are of code; leave them out, or pass code=true"
        )
    return given


class PassageJson(TypedDict):
    span: tuple[int, int]
    text: str
    first_line: int
    last_line: int


class MatchJson(TypedDict):
    query_token: str | None
    passage_token: str
    score: float
    span: tuple[int, int] | None
    line: int | None


class TokenJson(TypedDict):
    text: str
    span: tuple[int, int] | None
    score: float


class ExplanationJson(TypedDict):
    """similarity: (query tokens, tokens), only where it was asked for."""

    query_tokens: list[str | None]
    matches: list[MatchJson]
    score: float
    tokens: list[TokenJson]
    similarity: list[list[float]] | None


class LineJson(TypedDict):
    line: int
    text: str
    spans: list[tuple[int, int]]


class CodeJson(TypedDict):
    """Where a hit of code stands; lines: those that matter."""

    path: str
    line: int
    end_line: int
    symbol: str
    lines: list[LineJson]


class HitJson(TypedDict):
    """score: None for a passage without tokens. code, reasons: of code, and what its score adds up from."""

    rank: int
    score: float | None
    doc_id: str
    text: str | None
    metadata: dict[str, Any]
    passage: PassageJson | None
    explanation: ExplanationJson | None
    code: CodeJson | None
    reasons: dict[str, float] | None


class SecondsJson(TypedDict):
    """Of the batch that a query was in; of code all is search."""

    encode: float
    search: float


class ResultJson(TypedDict):
    """documents: of the index; unencoded: of these, how many only words can find yet. partial: there where a cluster
    answers without some shards, which are missing."""

    query: str
    hits: list[HitJson]
    documents: int
    unencoded: int
    generation: int
    mode: Literal["late", "lexical", "hybrid"]
    seconds: SecondsJson
    partial: NotRequired[Literal[True]]
    missing: NotRequired[list[str]]


class SearchedJson(ResultJson):
    index: str


class SearchesJson(TypedDict):
    index: str
    results: list[ResultJson]


class KeyJson(TypedDict):
    """key: as a filter writes it. values: None where there are more than 50."""

    key: str
    values: list[Any] | None


class Info(TypedDict):
    name: str
    documents: int
    passages: int
    tokens: int
    unencoded: int
    generation: int
    bytes: int
    encoder: str | None
    code: bool
    mode: Literal["late", "lexical", "hybrid"]
    writable: bool
    metadata_keys: list[KeyJson]


class Infos(TypedDict):
    indexes: list[Info]


class DocumentJson(TypedDict):
    doc_id: str
    text: str | None
    metadata: dict[str, Any]


def hit_json(found: Hit | CodeHit, shown: Shown) -> HitJson:
    hit = found if isinstance(found, Hit) else found.hit
    code = None if isinstance(found, Hit) else found
    passage = hit.passage
    return {
        "rank": found.rank,
        "score": found.score if math.isfinite(found.score) else None,
        "doc_id": hit.doc_id,
        "text": hit.text if shown.text else None,
        "metadata": hit.metadata,
        "passage": None
        if passage is None
        else {
            "span": passage.span,
            "text": passage.text,
            "first_line": passage.first_line,
            "last_line": passage.last_line,
        },
        "explanation": _explanation(hit, shown.explain) if shown.explain else None,
        "code": None if code is None else _code_json(code),
        "reasons": None if code is None else dict(code.reasons),
    }


def _code_json(hit: CodeHit) -> CodeJson:
    lines: list[LineJson] = [
        {"line": one.line, "text": one.text, "spans": list(one.spans)} for one in hit.lines
    ]
    return {
        "path": hit.path,
        "line": hit.line,
        "end_line": hit.end_line,
        "symbol": hit.symbol,
        "lines": lines,
    }


def _explanation(hit: Hit, explain: Explain) -> ExplanationJson | None:
    try:
        found = hit.explain()
    except ArgumentError:  # by words alone, not encoded yet, without text or tokens
        return None
    return explanation_json(found, full=explain == "full")


def explanation_json(found: Explanation, *, full: bool) -> ExplanationJson:
    shares = [0.0] * len(found.passage_tokens)
    for row in found.similarity:
        best = int(row.argmax())
        shares[best] += float(row[best])
    return {
        "query_tokens": list(found.query_tokens),
        "matches": [
            {
                "query_token": match.query_token,
                "passage_token": match.passage_token,
                "score": match.score,
                "span": match.span,
                "line": match.line,
            }
            for match in found.matches
        ],
        "score": found.score,
        "tokens": [
            {"text": token.text, "span": token.span, "score": share}
            for token, share in zip(found.passage_tokens, shares, strict=True)
        ],
        "similarity": [[round(float(one), 4) for one in row] for row in found.similarity] if full else None,
    }
