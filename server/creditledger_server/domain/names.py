"""How things may be named and how large numbers may grow, in one place for every layer.

The patterns are anchored at both ends, so that every way of applying them refuses a trailing newline.
"""

from __future__ import annotations

import re
from typing import Final

# 10^15 stays below 2^53, so that an amount survives every JSON parser on its way.
MAX_AMOUNT: Final = 10**15
"""The largest single amount, in the ledger's minor unit; also the largest metric, and ``per`` of a rate."""

# Below 2^63 with room for one more amount, so that a sum that is about to be refused still fits into int64.
MAX_BALANCE: Final = 9 * 10**18
"""The largest balance, in the ledger's minor unit."""

MAX_QUANTITY: Final = 10**9
"""The most uses of an operation that one request may ask for."""

ID_PATTERN: Final = re.compile(r"\A[A-Za-z0-9._:@/+=-]{1,128}\Z")
"""An account_id or request_id: 1 to 128 bytes, case-sensitive."""

NAME_PATTERN: Final = re.compile(r"\A[a-z][a-z0-9_]{0,63}\Z")
"""The name of an operation, level, package or metric: 1 to 64 bytes."""
