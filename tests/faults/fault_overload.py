"""Three times more calls than can be served: what is served must stay near the most that was, and all be well after it.

The servers' capacity is made small, by small transactions over a slow way to Postgres, so that the load comes from
clients that are not busy themselves. All figures are ratios within the one run.
"""

from __future__ import annotations

import time

from fault_history import OK, REFUSALS, read_history
from fault_site import CLIENTS, Site

DELAY = (0.010, 0.012)
"""Seconds that each chunk takes between a server and Postgres."""
DEADLINE = 2.0
"""Seconds that the callers wait once there are too many."""
GOODPUT = 0.7
NORMAL_SECONDS = 10.0


def offer_three_times_the_capacity(site: Site, seconds: float) -> None:
    """A fifth of the time for the peak, two fifths three times that, two fifths half of it."""
    for proxy in site.proxies:
        proxy.delay = DELAY
    part = seconds / 5
    time.sleep(part / 2)  # until the clients' connections stand
    peak = _served(site, part)
    site.command({"rate": 3 * peak / CLIENTS, "timeout": DEADLINE})
    time.sleep(part / 2)
    goodput = _served(site, 1.5 * part)
    site.command({"rate": 0.5 * peak / CLIENTS, "timeout": DEADLINE})
    lifted = time.monotonic()
    time.sleep(2 * part)
    normal = _normal_after(site, lifted)
    for proxy in site.proxies:
        proxy.delay = (0.0, 0.0)
    site.events.append(lifted)
    site.notes.append(
        f"overload: peak={peak:.0f}/s goodput={goodput:.0f}/s ratio={goodput / peak:.2f} normal_after_s={normal:.1f}"
    )
    if goodput < GOODPUT * peak:
        site.failures.append(f"goodput {goodput / peak:.2f} < {GOODPUT}")
    if normal > NORMAL_SECONDS:
        site.failures.append(f"not back to normal within {NORMAL_SECONDS:.0f} s")


def _served(site: Site, seconds: float) -> float:
    """Calls per second that were answered by a decision, from now on."""
    begin = time.monotonic()
    time.sleep(seconds)
    end = time.monotonic()
    calls = read_history(site.histories())
    return sum(_decided(call.outcome) and begin <= (call.end or 0.0) < end for call in calls) / (end - begin)


def _normal_after(site: Site, lifted: float) -> float:
    """After how many seconds a second began in which every call that was sent was decided."""
    calls = [call for call in read_history(site.histories()) if call.begin >= lifted]
    last = max(call.begin for call in calls) - DEADLINE
    bad = [call.begin for call in calls if not _decided(call.outcome) and call.begin < last]
    normal = lifted
    for begin in bad:
        if begin >= normal + 1.0:
            break
        normal = begin
    return normal - lifted if normal < last - 1.0 else float("inf")


def _decided(outcome: str) -> bool:
    return outcome == OK or outcome in REFUSALS
