"""ONNX files that others made: what they take and answer, and their change into the form that bundles have.

Foreign graphs take one matrix or one tensor per column, and answer mappings (zipmap), one probability or two. In a
bundle each input is a tensor of shape (n, 1) and the last output holds a probability per class: serving has one form.
"""

from __future__ import annotations

from typing import Any

from undrift.develop.bundle import Interface, Task
from undrift.develop.graphs import one_tensor_per_input
from undrift.errors import CorruptModelError, ModelError
from undrift.plugins import resolve_path

__all__ = ["describe_onnx", "onnx_model", "without_zipmap"]


def describe_onnx(content: bytes, what: str) -> tuple[tuple[str, ...], int, Task | None, tuple[str, ...]]:
    """Names of the inputs (empty: one matrix), their number (0: not stated), the task and the classes, if it says so.

    Raises
    ------
    CorruptModelError : it is no valid ONNX file.
    MissingExtraError : onnx is not installed.
    """
    graph = _load(content, what).graph
    given = _inputs(graph)
    classes = _classes(graph)
    several = len(graph.output) > 1 or any(node.op_type == "ZipMap" for node in graph.node)
    task: Task | None = None
    if several:
        task = "multiclass" if len(classes) > 2 else "binary"
    elif not classes:
        task = "regression"
    if len(given) == 1:
        shape = given[0].type.tensor_type.shape.dim
        width = shape[1].dim_value if len(shape) == 2 else 0
        if width != 1:
            return (), width, task, classes
    return tuple(value.name for value in given), len(given), task, classes


def onnx_model(content: bytes, interface: Interface) -> bytes:
    """The file in the form that bundles have.

    Raises
    ------
    ModelError : its inputs or outputs are of no form that is known.
    """
    model = without_zipmap(_load(content, "the ONNX model"))
    if interface.task == "binary":
        _both_classes(model.graph)
    given = _inputs(model.graph)
    by_column = [v.name for v in given] == [i.name for i in interface.inputs] and all(_is_column(v) for v in given)
    if not by_column:
        return one_tensor_per_input(model, interface.inputs)
    from onnx import TensorProto

    for value, wanted in zip(given, interface.inputs, strict=True):
        kind = TensorProto.STRING if wanted.type == "string" else TensorProto.FLOAT
        if value.type.tensor_type.elem_type != kind:
            _cast(model.graph, value, kind)
    whole: bytes = model.SerializeToString()
    return whole


def _load(content: bytes, what: str) -> Any:
    load = resolve_path("onnx:load_model_from_string", wanted_for="adopting an ONNX file", extra="onnx")
    check = resolve_path("onnx.checker:check_model", wanted_for="adopting an ONNX file", extra="onnx")
    try:
        model = load(content)
        check(model)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise CorruptModelError(f"{what} is no valid ONNX file: {text}") from error
    return model


def _inputs(graph: Any) -> list[Any]:
    constants = {value.name for value in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _is_column(value: Any) -> bool:
    shape = value.type.tensor_type.shape.dim
    return len(shape) == 2 and shape[1].dim_value == 1


def _classes(graph: Any) -> tuple[str, ...]:
    from onnx import helper

    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
                found = helper.get_attribute_value(attribute)
                names = tuple(v.decode() if isinstance(v, bytes) else str(v) for v in found)
                if len(names) >= 2:
                    return names
    return ()


def without_zipmap(model: Any) -> Any:
    """The model, giving the tensor of probabilities instead of one mapping per row."""
    from onnx import TensorProto, helper

    graph = model.graph
    for node in [n for n in graph.node if n.op_type == "ZipMap"]:
        place = next(i for i, value in enumerate(graph.output) if value.name == node.output[0])
        tensor = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None)
        kept = list(graph.output)
        kept[place] = tensor
        del graph.output[:]
        graph.output.extend(kept)
        graph.node.remove(node)
    return model


def _both_classes(graph: Any) -> None:
    """Where a binary graph answers P(positive) alone, answer P(negative) and P(positive)."""
    from onnx import TensorProto, helper

    last = graph.output[-1]
    shape = last.type.tensor_type.shape.dim
    kind = last.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.DOUBLE) or (len(shape) == 2 and shape[1].dim_value != 1):
        return
    if not last.type.tensor_type.HasField("shape") or not shape:
        return
    one = helper.make_tensor("undrift_one", kind, [1], [1.0])
    column = helper.make_tensor("undrift_column", TensorProto.INT64, [2], [-1, 1])
    graph.initializer.extend([one, column])
    graph.node.extend(
        [
            helper.make_node("Reshape", [last.name, "undrift_column"], ["undrift_positive"]),
            helper.make_node("Sub", ["undrift_one", "undrift_positive"], ["undrift_negative"]),
            helper.make_node("Concat", ["undrift_negative", "undrift_positive"], ["undrift_both"], axis=1),
        ]
    )
    del graph.output[:]
    graph.output.extend([helper.make_tensor_value_info("undrift_both", kind, [None, 2])])


def _cast(graph: Any, value: Any, kind: int) -> None:
    """Take a column as float32 and cast it to what the graph wants."""
    from onnx import TensorProto, helper

    wanted = value.type.tensor_type.elem_type
    if TensorProto.STRING in (wanted, kind):
        raise ModelError(f"the ONNX input {value.name!r} and its column differ: one is text, the other numbers.")
    inner = f"undrift_cast_{value.name}"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == value.name:
                node.input[place] = inner
    value.type.tensor_type.elem_type = kind
    nodes = [helper.make_node("Cast", [value.name], [inner], to=wanted), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
