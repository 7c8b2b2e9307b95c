"""Sealed tokens: whole, of this key and for this purpose, or refused."""

from __future__ import annotations

import base64
import string
from typing import Any

import pytest
from creditledger_server.domain.seal import seal, unseal
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = bytes(range(32))
VALUE = ["user-1", 12, {"a": None}]
TOKEN = seal(KEY, "page", VALUE)
RAW = base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def refused(token: str, key: bytes = KEY, purpose: str = "page") -> bool:
    try:
        unseal(key, purpose, token)
    except ValueError:
        return True
    return False


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), texts, json_values)
def test_what_is_sealed_comes_out_again(key: bytes, purpose: str, value: Any) -> None:
    token = seal(key, purpose, value)
    assert set(token) <= {*string.ascii_letters, *string.digits, "-", "_"}
    assert unseal(key, purpose, token) == value


def test_tokens_are_pinned_because_callers_keep_them() -> None:
    assert TOKEN == "e6u1QCAk6Wp-XYvKazuSAFsidXNlci0xIiwxMix7ImEiOm51bGx9XQ"
    assert encoded(RAW) == TOKEN


def test_any_flipped_bit_is_refused() -> None:
    for bit in range(8 * len(RAW)):
        raw = bytearray(RAW)
        raw[bit // 8] ^= 1 << bit % 8
        assert refused(encoded(bytes(raw))), bit


def test_any_truncation_is_refused_on_either_side() -> None:
    for length in range(len(TOKEN)):
        assert refused(TOKEN[:length])
        assert refused(TOKEN[len(TOKEN) - length :])
        assert refused(TOKEN + TOKEN[: length + 1])


@pytest.mark.parametrize("key", [b"", KEY[:-1], KEY + b"x", bytes(32), bytes([1]) + KEY[1:]])
def test_another_key_is_refused(key: bytes) -> None:
    assert refused(TOKEN, key=key)


@pytest.mark.parametrize("purpose", ["", "pag", "page ", "Page", "page\0", "watch"])
def test_another_purpose_is_refused(purpose: str) -> None:
    assert refused(TOKEN, purpose=purpose)


def test_the_border_of_purpose_and_value_does_not_move() -> None:
    mac, body = RAW[:16], RAW[16:]
    assert refused(encoded(mac + body[1:]), purpose="page\0" + body[:1].decode())
    assert refused(encoded(mac + b"e\0" + body), purpose="pag")


@pytest.mark.parametrize(
    "token",
    ["", "=", "====", "A", "AAAA", "!", " ", "\0", "\n", "é", "ü" * 40, "\ud800", "😀", "null", TOKEN + "!",
     " " + TOKEN, TOKEN + "\n", TOKEN.replace(TOKEN[3], "."), "A" * 100_000, "=" * 99],
)  # fmt: skip
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refused(token)


@settings(deadline=None)
@given(st.text(max_size=60) | st.text(string.ascii_letters + string.digits + "-_", max_size=80))
def test_made_up_tokens_are_refused_with_value_error_only(token: str) -> None:
    assert refused(token)


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_made_up_bytes_are_refused_with_value_error_only(raw: bytes) -> None:
    assert refused(encoded(raw))


@pytest.mark.parametrize("size", range(3))
def test_another_spelling_of_a_token_is_refused(size: int) -> None:
    token = seal(KEY, "page", ["x" * size])
    alphabet = string.ascii_letters + string.digits + "-_+/="
    others = [
        token[:place] + other + token[place + 1 :]
        for place in range(len(token))
        for other in alphabet
        if other != token[place]
    ]
    assert [other for other in [*others, token + "=", token + "=="] if not refused(other)] == []
