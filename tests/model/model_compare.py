"""Where an answer of the ledger differs from that of the model."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from model_catalog import Plain, from_datetime
from model_wire import clean

NAMES = {"reset_time": "resetTime"}
"""Metadata that the model names as the field it is taken from."""


def differences(expected: Plain, got: Plain) -> list[str]:
    """Each difference as "path: the model says …, the ledger says …"; empty if there is none."""
    if "error" in expected and "error" in got:
        return _of_errors(expected["error"], got["error"], "error")
    if "results" in expected and "results" in got:
        return _of_results(expected["results"], got["results"])
    return list(_diff(clean(expected), clean(got), ""))


def _of_results(expected: list[Plain], got: list[Plain]) -> list[str]:
    found = [] if len(expected) == len(got) else ["results: not as many as requests"]
    for number, (one, other) in enumerate(zip(expected, got, strict=False)):
        path = f"results[{number}]"
        if "status" in one and "status" in other:
            found += _of_status(one["status"], other["status"], path)
        else:
            found += _diff(clean(one), clean(other), path)
    return found


def _of_status(expected: Plain, got: Plain, path: str) -> list[str]:
    """An ItemStatus has the code as a number, which is that of the reason."""
    told = {**got, "code": expected["code"]}
    told["fields"] = sorted(each["field"] for each in got.get("field_violations", ()))
    told.setdefault("metadata", {})
    return _of_errors(expected, told, path)


def _of_errors(expected: Plain, got: Plain, path: str) -> list[str]:
    found = list(_diff([expected["code"], expected["reason"]], [got["code"], got["reason"]], path))
    if found:
        return found
    for name, value in expected["metadata"].items():
        told = got["metadata"].get(NAMES.get(name, name))
        if value is not None and _text(value, told) != told:
            found.append(
                f"{path}.metadata.{name}: the model says {_text(value, told)}, the ledger says {told}"
            )
    if expected["fields"] and expected["fields"] != got["fields"]:
        found.append(f"{path}.fields: the model says {expected['fields']}, the ledger says {got['fields']}")
    return found


def _text(value: Any, told: str | None) -> str | None:
    """A value as metadata tells it. Times may be written in several ways."""
    if told is not None and "T" in told and isinstance(value, int):
        return told if from_datetime(datetime.fromisoformat(told)) == value else str(value)
    return str(value)


def _diff(expected: Any, got: Any, path: str) -> list[str]:
    if isinstance(expected, dict) and isinstance(got, dict):
        keys = sorted(expected.keys() | got.keys())
        return [
            line
            for key in keys
            for line in _diff(expected.get(key), got.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return [line for place, (one, other) in pairs for line in _diff(one, other, f"{path}[{place}]")]
    return [] if expected == got else [f"{path}: the model says {expected}, the ledger says {got}"]
