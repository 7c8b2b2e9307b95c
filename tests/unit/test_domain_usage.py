"""The canonical text of a usage: what is stored and hashed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from creditledger_server.domain.usage import Usage, canonical_json
from hypothesis import given, settings
from hypothesis import strategies as st

FULL = Usage(
    service="openai",
    metrics={"tokens": 1834, "pages": 10**15},
    response_time=1_500_000,
    failed=True,
    occur_time=-1,
    metadata={"z": [None, True, 1.0, -0.5, "ü"], "a": {"b": {}}},
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
usages = st.builds(
    Usage,
    service=texts,
    metrics=st.dictionaries(texts, st.integers(0, 10**15), max_size=4),
    response_time=st.none() | st.integers(0, 366 * 86_400 * 10**6),
    failed=st.booleans(),
    occur_time=st.none() | st.integers(-(2**55), 2**58),
    metadata=st.none() | st.dictionaries(texts, json_values, max_size=4),
)


def test_the_text_is_pinned() -> None:
    assert FULL.to_json() == (
        '{"metadata":{"a":{"b":{}},"z":[null,true,1.0,-0.5,"ü"]},"metrics":{"pages":1000000000000000,"tokens":1834},'
        '"occur_time_us":-1,"outcome":"failed","response_time_us":1500000,"service":"openai"}'
    )


def test_what_says_nothing_is_left_out() -> None:
    assert Usage().to_json() == "{}"
    assert Usage.from_json("{}") == Usage()


@pytest.mark.parametrize(
    ("usage", "text"),
    [
        (Usage(response_time=0), '{"response_time_us":0}'),
        (Usage(occur_time=0), '{"occur_time_us":0}'),
        (Usage(metadata={}), '{"metadata":{}}'),
        (Usage(metrics={"tokens": 0}), '{"metrics":{"tokens":0}}'),
    ],
)
def test_zero_and_empty_metadata_are_told(usage: Usage, text: str) -> None:
    assert usage.to_json() == text
    assert Usage.from_json(text) == usage


@settings(deadline=None)
@given(usages)
def test_a_usage_survives_its_text(usage: Usage) -> None:
    again = Usage.from_json(usage.to_json())
    assert again == usage
    assert again.to_json() == usage.to_json()


@settings(deadline=None)
@given(usages, usages)
def test_different_usages_have_different_texts(one: Usage, other: Usage) -> None:
    # repr tells -0.0 and False apart from 0.0, as JSON does.
    assert (one.to_json() == other.to_json()) == (sorted_repr(one) == sorted_repr(other))


def sorted_repr(usage: Usage) -> str:
    def ordered(value: object) -> object:
        if isinstance(value, dict):
            return {key: ordered(value[key]) for key in sorted(value)}
        return [ordered(item) for item in value] if isinstance(value, list) else value

    return repr((usage.service, ordered(dict(usage.metrics)), usage.response_time, usage.failed,
                 usage.occur_time, ordered(usage.metadata)))  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(texts, json_values, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_the_text(value: dict[str, Any], random: Any) -> None:
    shuffled = list(value.items())
    random.shuffle(shuffled)
    assert canonical_json(dict(shuffled)) == canonical_json(value)


@settings(deadline=None)
@given(json_values)
def test_the_text_is_json_without_blanks(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": [number]})


@pytest.mark.parametrize("number", [5e-324, 1.7976931348623157e308, -0.0, 0.1, 2.0**53 + 2, 1e22])
def test_floats_keep_their_last_bit(number: float) -> None:
    metadata = Usage.from_json(Usage(metadata={"n": number}).to_json()).metadata
    assert metadata is not None
    assert repr(metadata["n"]) == repr(number)
