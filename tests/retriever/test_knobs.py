"""The defaults of a search, from k and the index's size."""

from typing import Any

import pytest

from retriever.options import SearchOptions
from retriever.ranking.knobs import SearchSettings, choose


@pytest.mark.parametrize(
    ("k", "nlist", "n", "tokens", "expected"),
    [
        (10, None, 100, 9_000, (1, 512, 128)),  # flat: nothing is probed
        (10, 8_192, 1_400, 277_572, (16, 512, 128)),
        (100, 19_696, 3_633, 1_298_348, (32, 1_000, 400)),
        (1_000, 19_696, 3_633, 1_298_348, (125, 10_000, 4_000)),
        (10, 12_856, 33_333, 9_999_900, (8, 1_456, 512)),  # 777 tokens a centroid: more on residuals
        (10, 2, 30, 90_000, (2, 1_024, 512)),  # no more lists than there are
    ],
)
def test_defaults(k: int, nlist: Any, n: int, tokens: int, expected: tuple[int, int, int]) -> None:
    found = choose(SearchOptions(k), k, nlist=nlist, n=n, tokens=tokens, tuned=None)
    assert found == SearchSettings(*expected)
    assert found.ncandidates >= found.nrerank >= k
