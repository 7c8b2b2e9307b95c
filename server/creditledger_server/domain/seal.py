"""Opaque tokens that a caller keeps for the ledger: page tokens and cursors. Signed, so that an altered one is seen."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from typing import Any

_MAC_SIZE = 16


def seal(key: bytes, purpose: str, value: object) -> str:
    """A URL-safe text that holds a JSON value; only ``unseal`` with the same key and purpose opens it."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return _text(_mac(key, purpose, body) + body)


def unseal(key: bytes, purpose: str, token: str) -> Any:
    """The value that ``seal`` put in. Raises ValueError for anything else."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not a token") from error
    if _text(raw) != token:  # base64 has several spellings of the same bytes
        raise ValueError("not a token")
    mac, body = raw[:_MAC_SIZE], raw[_MAC_SIZE:]
    if not hmac.compare_digest(mac, _mac(key, purpose, body)):
        raise ValueError("not a token of this ledger and purpose")
    return json.loads(body)


def _mac(key: bytes, purpose: str, body: bytes) -> bytes:
    return hmac.digest(key, purpose.encode() + b"\0" + body, "sha256")[:_MAC_SIZE]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
