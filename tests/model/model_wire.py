"""Between the model's dicts and the messages of the protos."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from creditledger.v1 import credit_ledger_pb2, ledger_admin_pb2
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from model_catalog import Plain

_SERVICES = (
    credit_ledger_pb2.DESCRIPTOR.services_by_name["CreditLedger"],
    ledger_admin_pb2.DESCRIPTOR.services_by_name["LedgerAdmin"],
)
_METHODS = {method.name: method for service in _SERVICES for method in service.methods}

NOT_COMPARED = frozenset({"hash", "head_hash", "message"})
"""Fields of which the model knows nothing: the chain, and texts for developers."""
MAPS = frozenset({"labels", "metrics", "metadata"})
"""Fields in which a zero means something."""

_prefixes: dict[str, str] = {}


def request_message(method: str, request: Plain) -> Any:
    """The request of a method."""
    message = message_factory.GetMessageClass(_METHODS[method].input_type)()
    _fill(message, request)
    return message


def _fill(message: Any, values: Plain) -> None:
    for name, value in values.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        target = getattr(message, name) if field.message_type or field.is_repeated else None
        if isinstance(target, Message):
            target.SetInParent()
            _fill_message(target, value)
        elif isinstance(value, dict):
            target.update(value)  # type: ignore[union-attr]
        elif isinstance(value, list):
            _fill_list(target, field, value)
        else:
            setattr(message, name, _scalar(field, value))


def _fill_message(target: Any, value: Any) -> None:
    if isinstance(target, (Timestamp, Duration)):
        target.FromMicroseconds(value)
    elif isinstance(target, FieldMask):
        target.paths.extend(value)
    elif isinstance(target, Struct):
        target.update(value)
    else:
        _fill(target, value)


def _fill_list(target: Any, field: FieldDescriptor, values: list[Any]) -> None:
    for value in values:
        if field.message_type:
            _fill(target.add(), value)
        else:
            target.append(_scalar(field, value))


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type and isinstance(value, str):
        return field.enum_type.values_by_name[_prefix(field.enum_type) + value].number
    return value


def plain(message: Message) -> Plain:
    """A message as a dict of the fields that it has."""
    found = {}
    for field, value in message.ListFields():
        if field.name in NOT_COMPARED:
            continue
        if field.is_repeated:
            found[field.name] = _plain_repeated(field, value)
        else:
            found[field.name] = _plain_value(field, value)
    return found


def _plain_repeated(field: FieldDescriptor, value: Iterable[Any]) -> Any:
    if field.message_type and field.message_type.GetOptions().map_entry:
        return dict(value)
    return [_plain_value(field, each) for each in value]


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, (Timestamp, Duration)):
        return value.ToMicroseconds()
    if isinstance(value, Struct):
        return json_format.MessageToDict(value)
    if isinstance(value, Message):
        return plain(value)
    if field.enum_type:
        return field.enum_type.values_by_number[value].name.removeprefix(_prefix(field.enum_type))
    return value


def _prefix(enum: EnumDescriptor) -> str:
    if enum.full_name not in _prefixes:
        _prefixes[enum.full_name] = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return _prefixes[enum.full_name]


def clean(value: Any) -> Any:
    """Without what is zero, empty or absent: on the wire they are the same."""
    if isinstance(value, dict):
        cleaned = {
            key: each if key in MAPS else clean(each) for key, each in value.items() if each is not None
        }
        return {key: each for key, each in cleaned.items() if each}
    if isinstance(value, list):
        return [clean(each) for each in value]
    return value
