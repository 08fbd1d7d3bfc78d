"""What the page is tried on: texts, code, and what a stranger might store."""

import re
from collections.abc import Iterator
from typing import Any

from retriever import Hit

__all__ = ["CODE", "EVIL", "FISH", "ODD", "TOPICS", "WALL", "documents", "expected_matches"]

FISH = "does eating fish prevent heart disease?"
WALL = "why must the wall be rebuilt"
TOPICS = {
    "fish": ("food", 2019, "Eating oily fish twice a week is good for the heart and helps prevent disease."),
    "salt": ("food", 2021, "Too much salt raises the pressure of the blood."),
    "oats": ("food", 2020, "Oats lower cholesterol. 🐟🫀 Some say that fish 🎏 does the same for a heart."),
    "bank": ("money", 2021, "The central bank raised interest rates to slow inflation."),
    "loan": ("money", 2018, "Borrowing costs more when the rate of a loan goes up."),
    "rain": ("weather", 2022, "Heavy rain is expected in the mountains tomorrow."),
}
EVIL = "<img src=x onerror=\"window.pwned='text'\"><script>window.pwned='script'</script> & it's a trap"
# Keys that `latewood index FOLDER` sets, with values that it never does.
ODD = {
    "doc_id": "odd",
    "text": "what a zebra eats\nin the zoo",
    "metadata": {
        "language": "zebra",
        "start_line": 3,
        "lines": [5, [1, 10**12], "x"],
        "title": 7,
        "symbol": " ",
        "path": {"a": 1},
        "kind": [],
    },
}
CODE = '''"""Sessions."""


class Store:
    """Keeps sessions."""

    limit = 10

    def expire(self, now):
        """Drop sessions that are too old."""
        return [s for s in self.all if s.until > now]

    def add(self, session):
        """Keep one more."""
        self.all.append(session)


def prices(basket):
    """What all that is in a basket costs."""
    return sum(item.price for item in basket)
'''


def documents() -> Iterator[dict[str, Any]]:
    for doc_id, (topic, year, text) in TOPICS.items():
        yield {
            "doc_id": doc_id,
            "text": text,
            "metadata": {"topic": topic, "year": year, "short": len(text) < 60},
        }
    filler = "The minutes of the last meeting were read and nobody had a remark on them. " * 60
    answer = "Then the treasurer explained why the harbour wall must be rebuilt in stone before winter. "
    yield {"doc_id": "minutes/long ?#.txt", "text": filler + answer + filler, "metadata": {"topic": "town"}}
    yield {
        "doc_id": f"evil {EVIL}",
        "text": f"How do strangers attack a page? {EVIL}",
        "metadata": {"title": EVIL, "topic": EVIL, "o'clock": "half past"},
    }


def expected_matches(hit: Hit) -> list[str]:
    """What the page says of each token of the query: "token → match score"."""
    plain = re.compile(r"^(##)(?=.)")
    return [
        f"{plain.sub('', m.query_token)} → {plain.sub('', m.passage_token)} {m.score:.2f}"
        for m in hit.explain().matches
    ]
