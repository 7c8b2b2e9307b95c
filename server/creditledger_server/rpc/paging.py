"""Page tokens: opaque, signed, bound to the request that they continue."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, TypeVar

from google.protobuf.message import Message

from ..domain.seal import seal, unseal
from .validate import Fields

MAX_PAGE_BYTES = 2 << 20

T = TypeVar("T", bound=Message)

_NOT_BOUND = ("page_size", "page_token")


def fitting(items: Sequence[T]) -> Sequence[T]:
    """The first items, as many as a client surely takes in one message; a page may be smaller than asked for."""
    size = 0
    for count, item in enumerate(items):
        size += item.ByteSize()
        if size > MAX_PAGE_BYTES and count:
            return items[:count]
    return items


class Pages:
    """Writes and reads the page tokens of one ledger."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, request: Message, position: object) -> str:
        """The token that continues ``request`` after ``position``."""
        return seal(self._key, _purpose(request), position)

    def position(self, fields: Fields, request: Any) -> Any:
        """Where ``request`` continues; None on the first page. Notes a violation for a foreign token."""
        if not request.page_token:
            return None
        try:
            return unseal(self._key, _purpose(request), request.page_token)
        except ValueError:
            fields.wrong("page_token", "must be the next_page_token of the same request")
            return None


def _purpose(request: Message) -> str:
    bound = type(request)()
    bound.CopyFrom(request)
    for field in _NOT_BOUND:
        bound.ClearField(field)
    return f"page:{request.DESCRIPTOR.name}:{sha256(bound.SerializeToString(deterministic=True)).hexdigest()}"
