"""Surgery on ONNX graphs: from what converters and other people make to the two forms that bundles have.

*By column*: each input is a tensor of shape (n, 1), text or numbers. *Dense*: all numbers are one matrix of shape
(d, n), and text that the graph only looks up in a list (one-hot, ordinal) is a row of places in that list; a call then
costs one buffer instead of a tensor per input. Which it is stands in the file's metadata. Nothing here runs a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from undrift.develop.bundle import Input
from undrift.errors import ModelError

__all__ = [
    "LAYOUT",
    "MATRIX",
    "Layout",
    "answering_double",
    "dense",
    "finished",
    "one_tensor_per_input",
    "opset_of_trees",
    "take_single",
]

MATRIX: Final = "undrift_columns"
"""The input of a dense graph."""
LAYOUT: Final = "undrift.layout"
"""The key of the metadata that describes a dense graph."""
_LISTS: Final = {"OneHotEncoder": "cats_strings", "LabelEncoder": "keys_strings"}


class Layout(msgspec.Struct, frozen=True):
    """What the rows of a dense graph's matrix hold: ``columns`` in order; for text the list that numbers are places in.

    Text that is not in its list is -1.
    """

    columns: tuple[str, ...]
    words: dict[str, list[str]] = {}


def one_tensor_per_input(graph: Any, inputs: Sequence[Input], *, double: bool = False) -> bytes:
    """Put a concatenation before a graph with one input of shape (n, d), so that it takes d inputs of shape (n, 1).

    Raises
    ------
    ModelError : the graph has several inputs, or one that is not a matrix of numbers or of text.
    """
    from onnx import TensorProto, helper

    known = {value.name for value in graph.graph.initializer}
    given = [value for value in graph.graph.input if value.name not in known]
    if len(given) != 1:
        raise ModelError(f"the ONNX model has {len(given)} inputs; one matrix, or one input per column, was expected.")
    whole = given[0]
    kind = whole.type.tensor_type.elem_type
    text = kind == TensorProto.STRING
    numbers = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32)
    if (not text and kind not in numbers) or text != all(i.type == "string" for i in inputs):
        raise ModelError(f"the ONNX model's input {whole.name!r} does not have the type of the columns it is given.")
    element = TensorProto.STRING if text else TensorProto.DOUBLE if double else TensorProto.FLOAT
    names = [f"undrift_column_{place}" for place in range(len(inputs))]
    nodes = [helper.make_node("Concat", names, ["undrift_rows"], axis=1)]
    nodes.append(
        helper.make_node("Identity", ["undrift_rows"], [whole.name])
        if text
        else helper.make_node("Cast", ["undrift_rows"], [whole.name], to=kind)
    )
    graph.graph.input.remove(whole)
    graph.graph.input.extend(helper.make_tensor_value_info(name, element, [None, 1]) for name in names)
    old = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes, *old])
    return finished(graph, {name: i.name for name, i in zip(names, inputs, strict=True)})


def finished(graph: Any, names: Mapping[str, str]) -> bytes:
    """The file of a graph whose inputs get other names; equal models give equal files."""
    for value in graph.graph.input:
        value.name = names.get(value.name, value.name)
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    graph.graph.name = "undrift"  # converters put a random name here: equal models shall have equal hashes
    content: bytes = graph.SerializeToString()
    return content


def opset_of_trees(model: Any) -> Any:
    """A graph that declares the operators' version that the trees of trees.py need, which converters do not know."""
    if any(node.op_type == "TreeEnsemble" for node in model.graph.node):
        for opset in model.opset_import:
            if opset.domain == "ai.onnx.ml":
                opset.version = max(opset.version, 5)
        model.ir_version = max(model.ir_version, 10)
    return model


def answering_double(model: Any) -> Any:
    """A graph whose numbers come out as float64; converters declare float32 even where they compute in float64."""
    from onnx import TensorProto, helper

    graph = model.graph
    for value in graph.output:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        inner = f"undrift_{value.name}"
        for node in graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = inner if name == value.name else name
        graph.node.append(helper.make_node("Cast", [inner], [value.name], to=TensorProto.DOUBLE))
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


def take_single(content: bytes) -> bytes:
    """The graph with inputs of float32 where they were float64; what it computes stays in double precision."""
    from onnx import TensorProto, helper, load_model_from_string

    model = load_model_from_string(content)
    constants = {value.name for value in model.graph.initializer}
    front = []
    for value in model.graph.input:
        if value.name in constants or value.type.tensor_type.elem_type != TensorProto.DOUBLE:
            continue
        inner = f"undrift_double_{value.name}"
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = inner if name == value.name else name
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        front.append(helper.make_node("Cast", [value.name], [inner], to=TensorProto.DOUBLE))
    if not front:
        return content
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*front, *nodes])
    whole: bytes = model.SerializeToString()
    return whole


def dense(content: bytes) -> bytes:
    """The dense form of a graph that takes one tensor per input; the graph itself where nothing is gained.

    Text that more is done with than being looked up keeps a tensor of its own.
    """
    from onnx import TensorProto, helper, load_model_from_string

    model = load_model_from_string(content)
    graph = model.graph
    constants = {value.name for value in graph.initializer}
    given = [value for value in graph.input if value.name not in constants]
    _drop_pickings(graph, {value.name for value in given})
    answered = {value.name for value in graph.output}
    kinds = {v.name: v.type.tensor_type.elem_type for v in given if v.name not in answered}
    numbers = [name for name, kind in kinds.items() if kind in (TensorProto.FLOAT, TensorProto.DOUBLE)]
    element = kinds[numbers[0]] if numbers else TensorProto.FLOAT
    numbers = [name for name in numbers if kinds[name] == element]
    words = {name: _words(graph, name) for name, kind in kinds.items() if kind == TensorProto.STRING}
    words = {name: found for name, found in words.items() if found}
    if len(numbers) + len(words) < 2 or any(node.op_type in ("If", "Loop", "Scan") for node in graph.node):
        return content
    nodes = list(_by_place(graph.node, words))
    used = [*_whole_groups(nodes, set(numbers)), *((name,) for name in (*numbers, *words))]
    apart = {name for node in nodes if not _joins(node, set(numbers)) for name in node.input}
    groups = [group for group in used if len(group) > 1 or group[0] in apart]
    columns = tuple(dict.fromkeys(name for group in groups for name in group))
    front = [helper.make_node("Transpose", [MATRIX], ["undrift_dense"], perm=[1, 0])]
    taken = ["_".join(("undrift_group", str(place))) for place in range(len(groups))]
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    if len(groups) == 1 and groups[0] == columns:
        taken = ["undrift_dense"]
    elif opset >= 13 and sum(map(len, groups)) == len(columns):
        sizes = [len(group) for group in groups]
        graph.initializer.append(helper.make_tensor("undrift_sizes", TensorProto.INT64, [len(sizes)], sizes))
        front.append(helper.make_node("Split", ["undrift_dense", "undrift_sizes"], taken, axis=1))
    else:
        for name, group in zip(taken, groups, strict=True):
            places = [columns.index(column) for column in group]
            graph.initializer.append(
                helper.make_tensor(f"{name}_places", TensorProto.INT64, [len(places)], places)
            )  # fmt: skip
            front.append(helper.make_node("Gather", ["undrift_dense", f"{name}_places"], [name], axis=1))
    joined = {tuple(n.input): n.output[0] for n in nodes if _joins(n, set(numbers))}
    names = {joined.get(group, group[0]) if len(group) > 1 else group[0]: name
             for group, name in zip(groups, taken, strict=True)}  # fmt: skip
    nodes = [node for node in nodes if not _joins(node, set(numbers))]
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    del graph.node[:]
    graph.node.extend([*front, *nodes])
    kept = [value for value in given if value.name not in numbers and value.name not in words]
    del graph.input[:]
    graph.input.extend([helper.make_tensor_value_info(MATRIX, element, [len(columns), None]), *kept])
    helper.set_model_props(model, {LAYOUT: msgspec.json.encode(Layout(columns, words)).decode()})
    whole: bytes = model.SerializeToString()
    return whole


def _drop_pickings(graph: Any, columns: set[str]) -> None:
    """Take out what picks the only column of an input: converters put it before encoders of one column."""
    from onnx import numpy_helper

    firsts = {t.name for t in graph.initializer if numpy_helper.to_array(t).reshape(-1).tolist() == [0]}
    answered = {value.name for value in graph.output}
    kept, same = [], dict[str, str]()
    for node in graph.node:
        picks = node.op_type == "Gather" and node.input[1] in firsts and any(a.i == 1 for a in node.attribute)
        if (picks or node.op_type == "Identity") and node.input[0] in columns and node.output[0] not in answered:
            same[node.output[0]] = node.input[0]
            continue
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _words(graph: Any, name: str) -> list[str]:
    """All that a text input is compared with; empty if more is done with it than being looked up in lists."""
    found: list[str] = []
    for node in graph.node:
        if name not in node.input:
            continue
        listed = next((a.strings for a in node.attribute if a.name == _LISTS.get(node.op_type)), None)
        if listed is None or (node.op_type == "OneHotEncoder" and not _zeros(node)):
            return []
        found += [word.decode() for word in listed]
    return list(dict.fromkeys(found))


def _zeros(node: Any) -> bool:
    """Whether an encoder takes what it does not know for none of its categories instead of failing."""
    return all(a.i == 1 for a in node.attribute if a.name == "zeros")


def _by_place(nodes: Sequence[Any], words: Mapping[str, list[str]]) -> Sequence[Any]:
    """The nodes, those that look text up looking up its place in the list of words instead."""
    from onnx import TensorProto, helper

    changed: list[Any] = []
    for number, node in enumerate(nodes):
        name = node.input[0] if node.input else ""
        if name not in words:
            changed.append(node)
            continue
        places = {word: place for place, word in enumerate(words[name])}
        listed = next(a for a in node.attribute if a.name == _LISTS[node.op_type])
        keys = [places[word.decode()] for word in listed.strings]
        node.attribute.remove(listed)
        if node.op_type == "OneHotEncoder":
            node.attribute.append(helper.make_attribute("cats_int64s", keys))
        else:
            whole = f"undrift_place_{number}"
            changed.append(helper.make_node("Cast", [name], [whole], to=TensorProto.INT64))
            node.input[0] = whole
            node.attribute.append(helper.make_attribute("keys_int64s", keys))
        changed.append(node)
    return changed


def _joins(node: Any, columns: set[str]) -> bool:
    return (
        node.op_type == "Concat"
        and len(node.input) > 1
        and all(name in columns for name in node.input)
        and all(a.i in (1, -1) for a in node.attribute if a.name == "axis")
    )


def _whole_groups(nodes: Sequence[Any], columns: set[str]) -> list[tuple[str, ...]]:
    """The columns that are put together side by side, as they are put together."""
    return list(dict.fromkeys(tuple(node.input) for node in nodes if _joins(node, columns)))
