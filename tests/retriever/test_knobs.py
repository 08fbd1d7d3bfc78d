"""The defaults of a search, from k and the index's size."""

import pytest

from retriever.options import SearchOptions
from retriever.ranking.knobs import SearchSettings, Size, choose


@pytest.mark.parametrize(
    ("k", "size", "expected"),
    [
        (10, Size(100, 100, 9_000, None), (1, 384, 96)),  # flat: nothing is probed
        (10, Size(1_400, 1_400, 277_572, 8_192), (16, 384, 96)),
        (100, Size(3_633, 3_633, 1_298_348, 19_696), (32, 1_000, 400)),
        (1_000, Size(3_633, 3_633, 1_298_348, 19_696), (125, 10_000, 4_000)),
        (
            10,
            Size(33_333, 33_333, 9_999_900, 12_856),
            (8, 1_456, 512),
        ),  # 777 tokens a centroid: more on residuals
        (10, Size(30, 30, 90_000, 2), (2, 1_024, 512)),  # no more lists than there are
        (10, Size(232, 1_409, 3_006_125, 65_536), (16, 128, 64)),  # six passages a document
    ],
)
def test_defaults(k: int, size: Size, expected: tuple[int, int, int]) -> None:
    found = choose(SearchOptions(k), k, size, None)
    assert found == SearchSettings(*expected)
    assert found.ncandidates >= found.nrerank >= k
