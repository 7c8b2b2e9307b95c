"""Decides: what an operation costs, what is allowed, what an entry says. Pure: no I/O, no clock, stdlib only.

Amounts are ints in the ledger's minor unit, times ints of microseconds since the Unix epoch (UTC).
"""
