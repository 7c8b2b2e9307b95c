"""What counts as an id and as a name."""

import pytest
from creditledger_server.domain.names import ID_PATTERN, MAX_AMOUNT, MAX_BALANCE, NAME_PATTERN


@pytest.mark.parametrize("text", ["a", "User:42@eu/west+1=_.-", "x" * 128])
def test_id_accepts_every_documented_character_up_to_128_bytes(text: str) -> None:
    assert ID_PATTERN.fullmatch(text)


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "ü", "a\n", "\na", "a\x00", "a,b"])
def test_id_refuses_anything_else(text: str) -> None:
    assert not ID_PATTERN.fullmatch(text)
    assert not ID_PATTERN.match(text)
    assert not ID_PATTERN.search(text)


@pytest.mark.parametrize("text", ["a", "script_generation", "v2", "a" * 64])
def test_name_accepts_lower_case_snake_up_to_64_bytes(text: str) -> None:
    assert NAME_PATTERN.fullmatch(text)


@pytest.mark.parametrize("text", ["", "a" * 65, "A", "2a", "_a", "a-b", "a.b", "é", "a\n", "\na"])
def test_name_refuses_anything_else(text: str) -> None:
    assert not NAME_PATTERN.fullmatch(text)
    assert not NAME_PATTERN.match(text)
    assert not NAME_PATTERN.search(text)


def test_a_full_balance_and_one_more_amount_fit_into_int64() -> None:
    assert MAX_BALANCE + MAX_AMOUNT < 2**63


def test_an_amount_is_exact_as_a_double_as_json_parsers_of_other_languages_read_it() -> None:
    assert int(float(MAX_AMOUNT - 1)) == MAX_AMOUNT - 1
    assert MAX_AMOUNT < 2**53
