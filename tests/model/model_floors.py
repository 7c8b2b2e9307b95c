"""How often each rule and each interesting case must come up, at least, per 100,000 steps of the campaign."""

from __future__ import annotations

from collections import Counter

from model_looks import WEIGHTS

PER_STEPS = 100_000

CASES: dict[str, int] = {
    "SIGTERM": 5,
    "adjusted down": 100,
    "adjusted up": 100,
    "allowance DAY": 100,
    "allowance LIFETIME": 20,
    "allowance MONTH": 50,
    "allowance WEEK": 50,
    "clock behind the account": 500,
    "clock set back": 300,
    "commit FAILED": 50,
    "commit equal": 100,
    "commit less": 100,
    "commit more": 100,
    "denied ACCOUNT_CLOSED": 100,
    "denied ACCOUNT_FROZEN": 100,
    "denied INSUFFICIENT_CREDITS": 500,
    "denied LIMIT_EXCEEDED": 500,
    "denied one grant too many": 5,
    "due at once": 50,
    "ended reservation: COMMITTED": 50,
    "ended reservation: EXPIRED": 50,
    "ended reservation: RELEASED": 20,
    "extended too far": 20,
    "grant began": 100,
    "grant expired": 200,
    "grant expired before": 10,
    "grant expired while held": 50,
    "grant that begins later": 200,
    "kill -9": 5,
    "late commit": 100,
    "late commit denied": 50,
    "level that was dropped": 100,
    "made CLOSED": 20,
    "made FROZEN": 100,
    "payment credited before": 10,
    "payment reference reused": 50,
    "refund in part": 100,
    "refund to an ended grant": 50,
    "refund whole": 200,
    "released to an ended grant": 20,
    "replay": 2_000,
    "request id reused": 500,
    "reservation ran out": 500,
    "second allowance avoided": 50,
    "several due at one instant": 50,
    "swept": 10,
    "usage summed": 500,
    "voided after its end": 10,
    "voided before it began": 30,
    "voided while held": 50,
}


def too_seldom(rules: Counter[str], cases: Counter[str], steps: int) -> list[str]:
    """What came up less often than it must."""
    half = PER_STEPS / sum(WEIGHTS.values()) / 2
    floors = {rule.__name__: int(share * half) for rule, share in WEIGHTS.items()}
    return [
        f"{name}: {counted[name]} of {floor * steps // PER_STEPS}"
        for counted, wanted in ((rules, floors), (cases, CASES))
        for name, floor in wanted.items()
        if counted[name] < floor * steps // PER_STEPS
    ]
