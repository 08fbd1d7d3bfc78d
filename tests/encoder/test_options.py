"""Options as dataclasses: each field checked by its type and range, unknown names refused, kept whole as JSON."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from encoder.errors import ArgumentError
from encoder.options import check, option, updated
from encoder.training.configs import SIZES, ClassifyConfig, DistillConfig, MlmConfig, RetrievalConfig
from retriever.mining import MiningConfig

CONFIGS = [
    MlmConfig(tokenizer="t"),
    DistillConfig(),
    RetrievalConfig(),
    RetrievalConfig(similarity="pooled"),
    ClassifyConfig("m"),
    MiningConfig(),
]


@dataclass(frozen=True)
class Some:
    name: str = option(MISSING, "A name.")
    n: int = option(1, "How many.", least=1, most=9)
    part: float = option(0.5, "A part.", least=0, most=1)
    sizes: tuple[int, ...] = option((1, 2), "Sizes.", least=1)
    kind: Literal["a", "b"] = "a"
    deep: bool = False

    def __post_init__(self) -> None:
        check(self)


def test_every_field_becomes_what_its_type_says():
    some = Some(Path("x/y"), np.int64(3), np.float32(0.25), [np.int32(4), 5], "b", True)
    assert some == Some("x/y", 3, 0.25, (4, 5), "b", True)
    assert json.loads(json.dumps(asdict(some)))["sizes"] == [4, 5]
    assert [type(v) for v in (some.name, some.n, some.part, some.sizes[0])] == [str, int, float, int]


@pytest.mark.parametrize(("changes", "message"), [
    ({"name": 3}, "name=3 is int; pass a string"),
    ({"n": 0}, "n=0; pass n >= 1"),
    ({"n": 10}, "n=10; pass n <= 9"),
    ({"n": 1.5}, r"n=1\.5 is float; pass an integer"),
    ({"part": float("nan")}, "part=nan; pass a finite number"),
    ({"part": 1.5}, r"part=1\.5; pass part <= 1"),
    ({"sizes": (3, 0)}, "sizes=0; pass sizes >= 1"),
    ({"sizes": "12"}, "sizes is the string '12'"),
    ({"kind": "c"}, "kind='c'; pass one of a, b"),
    ({"deep": 1}, "deep=1 is int; pass True or False"),
    ({"deap": True}, r"deap is no option of Some; did you mean deep\?"),
])  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_value_and_the_remedy(changes, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        updated(Some("x"), changes)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_of_training_comes_back_from_json_whole(config):
    kept = json.loads(json.dumps(asdict(config)))
    assert updated(config, kept) == config
    for name, value in kept.items():
        if type(value) is int and not isinstance(value, bool):
            with pytest.raises(ArgumentError, match=f"^{name}='1' is str; pass an integer"):
                updated(config, {name: "1"})
    with pytest.raises(ArgumentError, match=f"batchsize is no option of {type(config).__name__}; "):
        updated(config, {"batchsize": 4})
    ranges = [f for f in fields(config) if f.metadata.get("least") is not None]
    for f in ranges:
        bad = f.metadata["least"] - 1
        with pytest.raises(ArgumentError, match=rf"^{f.name}=[-.0-9e]+; pass {f.name} >= "):
            updated(config, {f.name: (bad,) if isinstance(getattr(config, f.name), tuple) else bad})
    assert ranges


def test_the_shape_of_a_new_model_is_its_size_but_for_what_is_given():
    assert MlmConfig(tokenizer="t").shape == SIZES["base"]
    assert MlmConfig(tokenizer="t", size="tiny", layers=2, hidden_size=32).shape == (32, 384, 2, 4)


def test_mining_refuses_what_leaves_nothing_to_mine():
    for values, message in (
        ({"n_negatives": 4, "depth": 4}, "n_negatives=4; pass less than depth=4"),
        ({"max_ratio": 0}, r"max_ratio=0\.0; pass a number above 0 and at most 1"),
        ({"max_ratio": 1.1}, r"max_ratio=1\.1; pass a number above 0 and at most 1"),
    ):
        with pytest.raises(ArgumentError, match=message):
            MiningConfig(**values)
