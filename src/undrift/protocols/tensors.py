"""Named tensors and their bytes, as the Open Inference Protocol and its binary extension write them.

Values stand flat and row by row; a string is four bytes of length, then UTF-8; all numbers are little-endian. No NumPy:
a server that answers single rows has no use for it. JSON around them stands in open_inference.py.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from undrift.data.decoder import Decoder
from undrift.develop.bundle import Interface
from undrift.errors import RequestError
from undrift.inference.endpoint import Row
from undrift.protocols.wire import columns, positional

__all__ = ["DATATYPES", "Tensor", "from_bytes", "outputs_of", "rows_of", "selected", "to_bytes"]

DATATYPES: Final = {
    "string": "BYTES",
    "integer": "INT64",
    "number": "FP64",
    "boolean": "BOOL",
    "timestamp": "BYTES",
}
"""The datatype of a field in a model's metadata; requests may use any that the value fits."""
_CODES: Final = {
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "FP32": "f", "FP64": "d",
}  # fmt: skip
_LENGTH: Final = struct.Struct("<I")
_NUMBERS: Final = frozenset(("FP16", "FP32", "FP64"))
KNOWN: Final = frozenset((*_CODES, "BOOL", "BYTES", "FP16"))


class Tensor(NamedTuple):
    """A tensor; ``data`` is flat, and has as many values as the shape says."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


def check(name: str, datatype: str, shape: Sequence[int], path: str) -> int:
    """How many values a tensor of that shape has.

    Raises
    ------
    RequestError : an unknown datatype or a negative size.
    """
    if datatype not in KNOWN:
        known = ", ".join(sorted(KNOWN))
        raise RequestError(f"one of {known} was expected, not {datatype[:40]!r}", path=f"{path}.datatype")
    if any(size < 0 for size in shape):
        raise RequestError(f"sizes of 0 or more were expected, not {list(shape)}", path=f"{path}.shape")
    return math.prod(shape)


def from_bytes(datatype: str, count: int, raw: bytes, path: str) -> list[Any]:
    """The values of a tensor's bytes.

    Raises
    ------
    RequestError : there are more or fewer bytes than ``count`` values have, or text that is no UTF-8.
    """
    if datatype == "BYTES":
        return _strings(count, raw, path)
    width = {"BOOL": 1, "FP16": 2}.get(datatype) or array(_CODES[datatype]).itemsize
    if len(raw) != count * width:
        raise RequestError(f"{count * width} bytes of {count} {datatype} were expected, got {len(raw)}", path=path)
    if datatype == "BOOL":
        return [byte != 0 for byte in raw]
    if datatype == "FP16":
        return list(struct.unpack(f"<{count}e", raw))
    values = array(_CODES[datatype])
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _strings(count: int, raw: bytes, path: str) -> list[Any]:
    values: list[Any] = []
    at = 0
    for _ in range(count):
        if at + 4 > len(raw):
            raise RequestError(f"{count} strings were expected, got {len(values)}", path=path)
        (length,) = _LENGTH.unpack_from(raw, at)
        end = at + 4 + length
        if end > len(raw):
            raise RequestError(f"string {len(values)} of {length} bytes goes beyond the end", path=path)
        try:
            values.append(raw[at + 4 : end].decode())
        except UnicodeDecodeError as error:
            raise RequestError(f"string {len(values)} is no UTF-8: {error}", path=path) from error
        at = end
    if at != len(raw):
        raise RequestError(f"{count} strings were expected, but {len(raw) - at} bytes are left", path=path)
    return values


def to_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor."""
    if tensor.datatype == "BYTES":
        texts = [str(value).encode() for value in tensor.data]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    values = array(_CODES[tensor.datatype], tensor.data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def rows_of(decoder: Decoder, tensors: Sequence[Tensor], path: str) -> list[dict[str, Any]]:
    """Checked rows: one tensor a field, of shape [n] or [n, 1]; or a single one of shape [n, fields].

    A tensor has no null, so a NaN in a field that may be null is a missing value.

    Raises
    ------
    RequestError : another shape, a name twice, or a value that breaks the contract.
    """
    contract = decoder.contract
    names, given = contract.names, dict[str, list[Any]]()
    if len(tensors) == 1 and tensors[0].name not in names and len(tensors[0].shape) == 2:
        (only,), width = tensors, tensors[0].shape[1]
        if width == len(names):
            return positional(decoder, _missing(decoder, only), f"{path}[0].data")
    for place, tensor in enumerate(tensors):
        if tensor.name in given:
            raise RequestError(f"a second input of the name {tensor.name!r}", path=f"{path}[{place}].name")
        if tensor.shape not in ([len(tensor.data)], [len(tensor.data), 1]):
            raise RequestError(
                f"a shape of [n] or [n, 1] with n = {len(tensor.data)} values was expected, not {tensor.shape}",
                path=f"{path}[{place}].shape",
            )
        nullable = tensor.name in names and contract.field(tensor.name).nullable
        floats = nullable and tensor.datatype in _NUMBERS
        given[tensor.name] = [None if value != value else value for value in tensor.data] if floats else tensor.data
    return columns(decoder, given, path)


def _missing(decoder: Decoder, tensor: Tensor) -> list[list[Any]]:
    """The rows of a tensor [n, fields], NaN being null where the field may be."""
    nullable = [field.nullable for field in decoder.contract.fields]
    width = len(nullable)
    rows = [tensor.data[start : start + width] for start in range(0, len(tensor.data), width)]
    if tensor.datatype not in _NUMBERS:
        return rows
    return [
        [None if may and value != value else value for value, may in zip(row, nullable, strict=True)] for row in rows
    ]


def outputs_of(interface: Interface, rows: Sequence[Row]) -> list[Tensor]:
    """The answer: outputs of shape [n] (``scores``: [n, classes]), and who gave it."""
    n = len(rows)
    found = []
    if interface.task != "regression":
        found.append(Tensor("label", "BYTES", [n], [row.label for row in rows]))
    found.append(Tensor("score", "FP64", [n], [row.score for row in rows]))
    if interface.task == "multiclass":
        flat = [score for row in rows for score in row.scores or ()]
        found.append(Tensor("scores", "FP64", [n, len(interface.classes)], flat))
    found.append(Tensor("prediction_id", "BYTES", [n], [row.id for row in rows]))
    found.append(Tensor("version", "INT64", [n], [row.version for row in rows]))
    found.append(Tensor("variant", "BYTES", [n], [row.variant for row in rows]))
    return found


def selected(outputs: Sequence[Tensor], wanted: Sequence[str], path: str) -> list[Tensor]:
    """The outputs that were asked for, in that order; all where none was named.

    Raises
    ------
    RequestError : there is no output of a name.
    """
    if not wanted:
        return list(outputs)
    by_name = {tensor.name: tensor for tensor in outputs}
    for place, name in enumerate(wanted):
        if name not in by_name:
            known = ", ".join(by_name)
            raise RequestError(f"one of {known} was expected, not {name[:40]!r}", path=f"{path}[{place}].name")
    return [by_name[name] for name in wanted]
