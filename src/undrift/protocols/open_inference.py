"""The Open Inference Protocol v2 over HTTP: JSON, and JSON followed by the bytes of its tensors.

The latter is the binary tensor data extension, which tritonclient uses by itself. Tensors and rows stand in tensors.py,
the same protocol over gRPC in open_inference_messages.py. Sources: kserve/open-inference-protocol,
specification/protocol/inference_rest.md; triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from undrift.data.decoder import Decoder
from undrift.errors import NotFoundError, RequestError
from undrift.inference.endpoint import Endpoint
from undrift.protocols.tensors import DATATYPES, Tensor, check, from_bytes, rows_of, to_bytes
from undrift.protocols.wire import decode, encode

__all__ = ["EXTENSIONS", "HEADER_LENGTH", "Asked", "answer", "metadata", "platform", "read", "versions"]

HEADER_LENGTH: Final = b"inference-header-content-length"
EXTENSIONS: Final = ("binary_tensor_data",)


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Infer(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}


_infer: Final = msgspec.json.Decoder(_Infer)


class Asked(NamedTuple):
    """An infer request: the rows, the caller's id of it, the outputs wanted, and which of them in bytes."""

    rows: list[dict[str, Any]]
    id: str
    outputs: list[str]
    binary: frozenset[str]
    all_binary: bool


def read(decoder: Decoder, body: bytes, header_length: bytes | None = None) -> Asked:
    """An infer request.

    Parameters
    ----------
    header_length : the header ``Inference-Header-Content-Length``, where bytes of tensors follow the JSON.

    Raises
    ------
    RequestError : malformed, a tensor that is not of shape [n] or [n, 1], or a row that breaks the contract.
    """
    head, tail = body, memoryview(b"")
    if header_length is not None:
        if not header_length.isdigit() or len(header_length) > 18 or int(header_length) > len(body):
            raise RequestError(
                f"a length of the JSON of at most {len(body)} bytes was expected, not {header_length[:40]!r}",
                path="Inference-Header-Content-Length",
            )
        head, tail = body[: int(header_length)], memoryview(body)[int(header_length) :]
    request: _Infer = decode(_infer, head)
    tensors, at = [], 0
    for place, given in enumerate(request.inputs):
        path = f"$.inputs[{place}]"
        count = check(given.name, given.datatype, given.shape, path)
        size = given.parameters.get("binary_data_size")
        if size is None:
            tensors.append(Tensor(given.name, given.datatype, given.shape, _flat(given, count, path)))
            continue
        if given.data is not msgspec.UNSET:
            raise RequestError("either data or binary_data_size was expected, got both", path=path)
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(tail) - at:
            raise RequestError(
                f"a size of at most the {len(tail) - at} bytes that are left was expected, not {size!r}",
                path=f"{path}.parameters.binary_data_size",
            )
        values = from_bytes(given.datatype, count, bytes(tail[at : at + size]), path)
        tensors.append(Tensor(given.name, given.datatype, given.shape, values))
        at += size
    if at != len(tail):
        raise RequestError(f"{len(tail) - at} bytes follow that belong to no input", path="$")
    every = request.parameters.get("binary_data_output") is True
    named = {output.name: output.parameters.get("binary_data", every) is True for output in request.outputs}
    return Asked(
        rows_of(decoder, tensors, "$.inputs"),
        request.id,
        list(named),
        frozenset(name for name, binary in named.items() if binary),
        every and not named,
    )


def _flat(given: _Input, count: int, path: str) -> list[Any]:
    """The values of a tensor in JSON, which may be nested as its shape is."""
    if given.data is msgspec.UNSET:
        raise RequestError("Object missing required field `data`", path=path)
    values: list[Any] = given.data
    for _ in given.shape[1:]:
        if not values or not all(isinstance(value, list) for value in values):
            break
        values = [inner for value in values for inner in value]
    if len(values) != count:
        raise RequestError(
            f"a shape of [n] or [n, 1] with n = {len(values)} values was expected, not {given.shape}",
            path=f"{path}.shape",
        )
    return values


def answer(model: str, request_id: str, outputs: Sequence[Tensor], asked: Asked) -> tuple[bytes, int | None]:
    """The answer, and the length of its JSON where bytes of tensors follow."""
    version = _common_version(outputs)
    described, tail = [], []
    for tensor in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
        if asked.all_binary or tensor.name in asked.binary:
            raw = to_bytes(tensor)
            tail.append(raw)
            entry["parameters"] = {"binary_data_size": len(raw)}
        else:
            entry["data"] = tensor.data
        described.append(entry)
    head = encode({"model_name": model, "model_version": version, "id": request_id, "outputs": described})
    return (b"".join((head, *tail)), len(head)) if tail else (head, None)


def _common_version(outputs: Sequence[Tensor]) -> str:
    """The version that answered; empty where the outputs do not say, or where rows were answered by two."""
    found = {value for tensor in outputs if tensor.name == "version" for value in tensor.data}
    return str(found.pop()) if len(found) == 1 else ""


def versions(endpoint: Endpoint, wanted: str = "") -> list[str]:
    """The loaded versions of a model.

    Raises
    ------
    NotFoundError : the one asked for is not among them.
    """
    loaded = sorted({str(revision.placed.version) for revision in endpoint.revisions.values()})
    if wanted and wanted not in loaded:
        model = endpoint.route.model
        raise NotFoundError(f"version {wanted[:20]} of model {model!r} is not loaded; loaded: {', '.join(loaded)}.")
    return loaded


def platform(endpoint: Endpoint) -> str:
    """What runs the model: the format of the champion's file."""
    return f"undrift_{endpoint.champion.manifest.format}"


def metadata(endpoint: Endpoint) -> dict[str, Any]:
    """A model's name, versions, platform, inputs and outputs."""
    interface = endpoint.interface
    inputs = [{"name": f.name, "datatype": DATATYPES[f.type], "shape": [-1]} for f in interface.contract.fields]
    outputs: list[dict[str, Any]] = [{"name": "score", "datatype": "FP64", "shape": [-1]}]
    if interface.task != "regression":
        outputs.insert(0, {"name": "label", "datatype": "BYTES", "shape": [-1]})
    if interface.task == "multiclass":
        outputs.append({"name": "scores", "datatype": "FP64", "shape": [-1, len(interface.classes)]})
    outputs += [
        {"name": "prediction_id", "datatype": "BYTES", "shape": [-1]},
        {"name": "version", "datatype": "INT64", "shape": [-1]},
        {"name": "variant", "datatype": "BYTES", "shape": [-1]},
    ]
    return {
        "name": interface.model,
        "versions": versions(endpoint),
        "platform": platform(endpoint),
        "inputs": inputs,
        "outputs": outputs,
    }
