"""Conversion: the ways from a fitted model to an ONNX graph with one tensor per input, the most exact first.

Trees are compiled in double precision (trees.py), networks drawn by their own library (networks.py), CatBoost by
itself; everything else goes through skl2onnx, in double precision where it can, otherwise in single. Nothing here
knows whether a conversion is right: compile.py compares.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from undrift.develop.bundle import Input
from undrift.develop.foreign import without_zipmap
from undrift.develop.graphs import answering_double, finished, one_tensor_per_input, opset_of_trees
from undrift.develop.networks import Network, network_graph
from undrift.develop.operators import register
from undrift.develop.trees import booster_graph, has_trees
from undrift.errors import ModelError

__all__ = ["Conversion", "conversions"]

_OPSET: Final = {"": 17, "ai.onnx.ml": 3}


class Conversion(NamedTuple):
    """A way to convert a model: the precision of what it computes, and the function that does it."""

    precision: str
    convert: Callable[[Any, Sequence[Input]], bytes]


def conversions(model: Any, inputs: Sequence[Input]) -> list[Conversion]:
    """The ways to convert a model, the likeliest to be right first."""
    library = type(model).__module__.partition(".")[0]
    if isinstance(model, Network):
        return [Conversion("single", _convert_network)]
    if library == "catboost":
        return [Conversion("single", _convert_catboost)]
    if library in ("lightgbm", "xgboost"):
        return [Conversion("double", _convert_booster)]
    alike = len({i.type == "string" for i in inputs}) == 1
    ways = [_convert_columns, _convert_matrix] if alike and len(inputs) > 1 else [_convert_columns]
    exact = [Conversion("double", _with(way, double=True)) for way in ways]
    plain = [Conversion("single", _with(way, double=False)) for way in ways]
    return [*exact, *plain] if any(has_trees(part) for part in _parts(model)) else [*plain, *exact]


def _with(way: Callable[..., bytes], *, double: bool) -> Callable[[Any, Sequence[Input]], bytes]:
    return lambda model, inputs: way(model, inputs, double)


def _types(double: bool) -> tuple[Any, Any]:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    return StringTensorType, DoubleTensorType if double else FloatTensorType


def _convert_columns(model: Any, inputs: Sequence[Input], double: bool) -> bytes:
    """What begins with a ColumnTransformer or the like, which picks its columns from one tensor per input."""
    text, number = _types(double)
    # converters want identifiers for names, so the graph's inputs get their own names back afterwards; but a model that
    # picks columns by name has to find them
    by_name = hasattr(model, "feature_names_in_")
    names = [i.name if by_name else f"input_{place}" for place, i in enumerate(inputs)]
    types = [(n, (text if i.type == "string" else number)([None, 1])) for n, i in zip(names, inputs, strict=True)]
    return finished(_convert_sklearn(model, types, double), {n: i.name for n, i in zip(names, inputs, strict=True)})


def _convert_matrix(model: Any, inputs: Sequence[Input], double: bool) -> bytes:
    """An estimator that takes its rows whole: the converters of most know one matrix only."""
    text, number = _types(double)
    kind = text if inputs[0].type == "string" else number
    graph = _convert_sklearn(model, [("rows", kind([None, len(inputs)]))], double)
    return one_tensor_per_input(graph, inputs, double=double)


def _convert_sklearn(model: Any, types: list[tuple[str, Any]], double: bool) -> Any:
    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier

    if not hasattr(model, "__sklearn_tags__"):
        raise ModelError(f"{type(model).__name__} is a class of somebody's own, which no converter knows")
    register()
    options = {"zipmap": False} if is_classifier(model) else None
    graph = opset_of_trees(convert_sklearn(model, initial_types=types, options=options, target_opset=_OPSET))
    return answering_double(graph) if double else graph


def _convert_booster(model: Any, inputs: Sequence[Input]) -> bytes:
    library = type(model).__module__.partition(".")[0]
    if any(i.type == "string" for i in inputs):
        raise ModelError(f"{library} takes text only as categories, which are not compiled")
    return one_tensor_per_input(booster_graph(model, len(inputs)), inputs, double=True)


def _convert_network(model: Network, inputs: Sequence[Input]) -> bytes:
    if any(i.type == "string" for i in inputs):
        raise ModelError("a network takes numbers only")
    return one_tensor_per_input(network_graph(model, len(inputs)), inputs)


def _convert_catboost(model: Any, inputs: Sequence[Input]) -> bytes:
    from onnx import load

    if model.get_cat_feature_indices():
        raise ModelError("CatBoost does not export trees with categories of their own")
    with tempfile.TemporaryDirectory(prefix="undrift-") as folder:
        file = Path(folder) / "model.onnx"
        model.save_model(str(file), format="onnx")
        return one_tensor_per_input(without_zipmap(load(file)), inputs)


def _parts(model: Any) -> Iterator[Any]:
    """A model and all estimators inside it: steps, columns, members of ensembles."""
    if isinstance(model, list | tuple):
        for item in model:
            yield from _parts(item)
    elif hasattr(model, "get_params"):
        yield model
        for value in vars(model).values():
            yield from _parts(value)
