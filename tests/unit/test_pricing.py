"""What uses cost, against exact fractions."""

from fractions import Fraction
from math import ceil
from random import Random

import pytest
from creditledger_server.domain.catalog import FlatPrice, MeteredPrice, MetricRate
from creditledger_server.domain.names import MAX_AMOUNT, MAX_QUANTITY
from creditledger_server.domain.pricing import cost_of
from hypothesis import given
from hypothesis import strategies as st

METRICS = ("tokens", "seconds", "pages", "images")

amounts = st.integers(0, MAX_AMOUNT) | st.integers(0, 10)
units = st.integers(1, MAX_AMOUNT) | st.integers(1, 12)
quantities = st.integers(1, MAX_QUANTITY) | st.integers(1, 5)
# More metrics than any price has rates for, and not always all that it has.
measurements = st.dictionaries(st.sampled_from((*METRICS, "unpriced")), amounts)


@st.composite
def metered_prices(draw: st.DrawFn) -> MeteredPrice:
    metrics = draw(st.lists(st.sampled_from(METRICS), min_size=1, unique=True))
    rates = tuple(MetricRate(metric, draw(amounts), draw(units)) for metric in metrics)
    return MeteredPrice(rates, draw(amounts))


def exact_sum(price: MeteredPrice, quantity: int, metrics: dict[str, int]) -> Fraction:
    shares = [Fraction(metrics.get(rate.metric, 0) * rate.amount, rate.per) for rate in price.rates]
    return quantity * sum(shares, Fraction(0))


@given(amounts, quantities, measurements)
def test_a_flat_price_is_multiplied_by_the_quantity_whatever_was_measured(
    amount: int, quantity: int, metrics: dict[str, int]
) -> None:
    assert cost_of(FlatPrice(amount), quantity, metrics) == amount * quantity


@given(metered_prices(), quantities, measurements)
def test_a_metered_price_is_the_exact_sum_rounded_up_once_and_at_least_the_minimum(
    price: MeteredPrice, quantity: int, metrics: dict[str, int]
) -> None:
    expected = max(ceil(exact_sum(price, quantity, metrics)), price.minimum * quantity)
    cost = cost_of(price, quantity, metrics)
    assert type(cost) is int
    assert cost == expected


@given(metered_prices(), quantities, measurements)
def test_rounding_never_adds_a_whole_credit(
    price: MeteredPrice, quantity: int, metrics: dict[str, int]
) -> None:
    unrounded = MeteredPrice(price.rates, minimum=0)
    assert 0 <= cost_of(unrounded, quantity, metrics) - exact_sum(price, quantity, metrics) < 1


@given(metered_prices(), quantities, measurements, st.sampled_from(METRICS), amounts)
def test_more_of_a_metric_never_costs_less(
    price: MeteredPrice, quantity: int, metrics: dict[str, int], metric: str, more: int
) -> None:
    increased = {**metrics, metric: metrics.get(metric, 0) + more}
    assert cost_of(price, quantity, increased) >= cost_of(price, quantity, metrics)


@given(metered_prices(), quantities, measurements)
def test_many_uses_at_once_never_cost_more_than_one_by_one(
    price: MeteredPrice, quantity: int, metrics: dict[str, int]
) -> None:
    assert cost_of(price, quantity, metrics) <= quantity * cost_of(price, 1, metrics)


@given(metered_prices(), st.randoms(use_true_random=False), quantities, measurements)
def test_the_order_of_rates_does_not_matter(
    price: MeteredPrice, random: Random, quantity: int, metrics: dict[str, int]
) -> None:
    shuffled = random.sample(price.rates, len(price.rates))
    assert cost_of(MeteredPrice(tuple(shuffled), price.minimum), quantity, metrics) == cost_of(
        price, quantity, metrics
    )


def per_thousand_tokens(minimum: int = 0) -> MeteredPrice:
    return MeteredPrice((MetricRate("tokens", 1, 1000),), minimum)


@pytest.mark.parametrize(
    ("tokens", "cost"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (1834, 2), (2000, 2)]
)
def test_a_begun_unit_is_charged_whole(tokens: int, cost: int) -> None:
    assert cost_of(per_thousand_tokens(), 1, {"tokens": tokens}) == cost


def test_the_total_is_rounded_and_not_each_use() -> None:
    assert cost_of(per_thousand_tokens(), 10, {"tokens": 100}) == 1


def test_the_total_is_rounded_and_not_each_rate() -> None:
    price = MeteredPrice((MetricRate("tokens", 1, 3), MetricRate("pages", 1, 6)), minimum=0)
    assert cost_of(price, 1, {"tokens": 1, "pages": 4}) == 1


def test_thirds_that_make_a_whole_are_not_rounded_up() -> None:
    price = MeteredPrice(tuple(MetricRate(metric, 1, 3) for metric in METRICS[:3]), minimum=0)
    assert cost_of(price, 1, dict.fromkeys(METRICS, 1)) == 1


def test_the_minimum_is_per_use() -> None:
    assert cost_of(per_thousand_tokens(minimum=2), 3, {"tokens": 1000}) == 6


def test_a_use_that_measured_nothing_costs_the_minimum() -> None:
    assert cost_of(per_thousand_tokens(minimum=1), 1, {}) == 1


def test_the_answer_is_exact_far_beyond_what_may_be_charged() -> None:
    price = MeteredPrice((MetricRate("tokens", MAX_AMOUNT, 1),), minimum=0)
    assert cost_of(price, MAX_QUANTITY, {"tokens": MAX_AMOUNT}) == 10**39
