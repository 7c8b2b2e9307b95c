"""What a use costs. Whole numbers only: fractions are carried exactly and rounded once, at the end."""

from collections.abc import Mapping
from math import lcm

from .catalog import FlatPrice, MeteredPrice, Price


def cost_of(price: Price, quantity: int, metrics: Mapping[str, int]) -> int:
    """The cost of ``quantity`` uses that each measured ``metrics``, in the ledger's minor unit.

    flat:     quantity * amount
    metered:  max(ceil(quantity * sum of metric * amount / per over all rates), quantity * minimum)

    The quantity is 1 or more, metrics are 0 or more. A metric that was not measured counts as 0, one without
    a rate is not charged. The answer is exact however large it is: to refuse one above MAX_AMOUNT is up to
    the caller.
    """
    if isinstance(price, FlatPrice):
        return price.amount * quantity
    return max(_metered(price, quantity, metrics), price.minimum * quantity)


def _metered(price: MeteredPrice, quantity: int, metrics: Mapping[str, int]) -> int:
    # Over a common denominator all shares are whole, so that rounding happens once, on the total.
    denominator = lcm(*[rate.per for rate in price.rates])
    numerator = 0
    for rate in price.rates:
        numerator += metrics.get(rate.metric, 0) * rate.amount * (denominator // rate.per)
    # Floor division of the negated value rounds up.
    return -(-quantity * numerator // denominator)
