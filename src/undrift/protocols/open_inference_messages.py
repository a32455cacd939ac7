"""The messages of the Open Inference Protocol over gRPC, and their translation to rows and from answers.

Message types are made of the table below when this file is imported, in a pool of descriptors of their own: no
generated code, and no clash with a client's in the same process. Imported only where gRPC is served (extra `grpc`).
Source: kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from undrift.data.decoder import Decoder
from undrift.errors import RequestError
from undrift.protocols.tensors import Tensor, check, from_bytes, rows_of, to_bytes

__all__ = ["SERVICE", "fill", "message", "read", "wanted"]

PACKAGE: Final = "inference"
SERVICE: Final = "inference.GRPCInferenceService"

# message -> fields in the form "number name type", a `*` before the type for repeated; `{X}` is a map from string to X
_MESSAGES: Final[Mapping[str, Sequence[str]]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("1 live bool",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("1 ready bool",),
    "ModelReadyRequest": ("1 name string", "2 version string"),
    "ModelReadyResponse": ("1 ready bool",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("1 name string", "2 version string", "3 extensions *string"),
    "ModelMetadataRequest": ("1 name string", "2 version string"),
    "ModelMetadataResponse": (
        "1 name string",
        "2 versions *string",
        "3 platform string",
        "4 inputs *ModelMetadataResponse.TensorMetadata",
        "5 outputs *ModelMetadataResponse.TensorMetadata",
    ),
    "ModelMetadataResponse.TensorMetadata": ("1 name string", "2 datatype string", "3 shape *int64"),
    "InferParameter": (
        "1 bool_param bool",
        "2 int64_param int64",
        "3 string_param string",
        "4 double_param double",
        "5 uint64_param uint64",
    ),
    "InferTensorContents": (
        "1 bool_contents *bool",
        "2 int_contents *int32",
        "3 int64_contents *int64",
        "4 uint_contents *uint32",
        "5 uint64_contents *uint64",
        "6 fp32_contents *float",
        "7 fp64_contents *double",
        "8 bytes_contents *bytes",
    ),
    "ModelInferRequest": (
        "1 model_name string",
        "2 model_version string",
        "3 id string",
        "4 parameters {InferParameter}",
        "5 inputs *ModelInferRequest.InferInputTensor",
        "6 outputs *ModelInferRequest.InferRequestedOutputTensor",
        "7 raw_input_contents *bytes",
    ),
    "ModelInferRequest.InferInputTensor": (
        "1 name string",
        "2 datatype string",
        "3 shape *int64",
        "4 parameters {InferParameter}",
        "5 contents InferTensorContents",
    ),
    "ModelInferRequest.InferRequestedOutputTensor": ("1 name string", "2 parameters {InferParameter}"),
    "ModelInferResponse": (
        "1 model_name string",
        "2 model_version string",
        "3 id string",
        "4 parameters {InferParameter}",
        "5 outputs *ModelInferResponse.InferOutputTensor",
        "6 raw_output_contents *bytes",
    ),
    "ModelInferResponse.InferOutputTensor": (
        "1 name string",
        "2 datatype string",
        "3 shape *int64",
        "4 parameters {InferParameter}",
        "5 contents InferTensorContents",
    ),
}
_ONE_OF: Final = {"InferParameter": "parameter_choice"}
_CONTENTS: Final = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def _describe() -> Any:
    """The file descriptor of the table."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="undrift/open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name in sorted(_MESSAGES, key=lambda name: name.count(".")):
        outer, _, inner = name.rpartition(".")
        made[name] = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=name)
    for name, lines in _MESSAGES.items():
        described = made[name]
        if name in _ONE_OF:
            described.oneof_decl.add(name=_ONE_OF[name])
        for line in lines:
            number, field_name, kind = line.split()
            field = described.field.add(name=field_name, number=int(number), label=kinds.LABEL_OPTIONAL)
            if kind.startswith("{"):
                entry = "".join(part.capitalize() for part in field_name.split("_")) + "Entry"
                nested = described.nested_type.add(name=entry)
                nested.options.map_entry = True
                nested.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
                value = nested.field.add(name="value", number=2, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_MESSAGE)
                value.type_name = f".{PACKAGE}.{kind.strip('{}')}"
                kind = f"*{name}.{entry}"
            if kind.startswith("*"):
                field.label, kind = kinds.LABEL_REPEATED, kind[1:]
            if kind[0].islower():
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
            else:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            if name in _ONE_OF:
                field.oneof_index = 0
    return file


def _types_of(file: Any) -> dict[str, Any]:
    """The message types of a file, by name, in a pool of their own."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [name for name in _MESSAGES if "." not in name]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names}


_types: Final = _types_of(_describe())


def message(name: str) -> Any:
    """The type of a message by its name in the protocol, as ``ModelInferRequest``."""
    return _types[name]


def read(decoder: Decoder, request: Any) -> list[dict[str, Any]]:
    """The rows of a ``ModelInferRequest``.

    Raises
    ------
    RequestError : a tensor of another shape or size, or a row that breaks the contract.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"{len(request.inputs)} raw contents were expected, got {len(raw)}", path="$.inputs")
    tensors = []
    for place, given in enumerate(request.inputs):
        path, shape = f"$.inputs[{place}]", list(given.shape)
        count = check(given.name, given.datatype, shape, path)
        if raw:
            values = from_bytes(given.datatype, count, raw[place], path)
        else:
            if given.datatype not in _CONTENTS:
                raise RequestError(f"{given.datatype} was expected in raw contents", path=path)
            values = list(getattr(given.contents, _CONTENTS[given.datatype]))
            if given.datatype == "BYTES":
                values = [_text(value, path) for value in values]
            if len(values) != count:
                raise RequestError(f"{count} values of shape {shape} were expected, got {len(values)}", path=path)
        tensors.append(Tensor(given.name, given.datatype, shape, values))
    return rows_of(decoder, tensors, "$.inputs")


def _text(value: bytes, path: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"a string is no UTF-8: {error}", path=path) from error


def wanted(request: Any) -> list[str]:
    """The names of the outputs that a request asks for."""
    return [output.name for output in request.outputs]


def fill(response: Any, outputs: Sequence[Tensor], *, raw: bool) -> None:
    """Put the outputs into a ``ModelInferResponse``, raw or by type, as the request was."""
    for tensor in outputs:
        added = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            response.raw_output_contents.append(to_bytes(tensor))
        else:
            values = [str(v).encode() for v in tensor.data] if tensor.datatype == "BYTES" else tensor.data
            getattr(added.contents, _CONTENTS[tensor.datatype]).extend(values)
