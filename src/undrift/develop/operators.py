"""What skl2onnx learns from undrift: trees (trees.py), imputers in double precision, encoders of rare and new text.

Registered under the estimators' own classes, so that pipelines and ensembles that hold them are converted as usual.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from undrift.develop.trees import constant, read
from undrift.errors import ModelError

__all__ = ["register"]


def register() -> None:
    """Let scikit-learn's converter take the trees of this file wherever a pipeline holds them."""
    from skl2onnx import update_registered_converter
    from skl2onnx.shape_calculators.imputer import calculate_sklearn_imputer_output_shapes as imputer_shapes
    from sklearn import ensemble, tree
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    kinds = {**vars(ensemble), **vars(tree)}
    names = ("HistGradientBoosting", "GradientBoosting", "RandomForest", "ExtraTrees", "DecisionTree", "ExtraTree")
    classifiers = [(kinds[f"{name}Classifier"], f"Undrift{name}Classifier") for name in names]
    regressors = [(kinds[f"{name}Regressor"], f"Undrift{name}Regressor") for name in names]
    for library, prefix in (("lightgbm", "LGBM"), ("xgboost", "XGB")):
        module = sys.modules.get(library)  # a pipeline cannot hold what is not loaded
        if module is not None:
            classifiers.append((getattr(module, f"{prefix}Classifier"), f"Undrift{prefix}Classifier"))
            regressors.append((getattr(module, f"{prefix}Regressor"), f"Undrift{prefix}Regressor"))
    options = {"nocl": [True, False], "zipmap": [True, False, "columns"], "raw_scores": [True, False],
               "output_class_labels": [True, False]}  # fmt: skip
    for kind, alias in classifiers:
        update_registered_converter(kind, alias, _classifier_shapes, _convert, options=options)
    for kind, alias in regressors:
        update_registered_converter(kind, alias, _regressor_shapes, _convert)
    update_registered_converter(SimpleImputer, "UndriftImputer", imputer_shapes, _convert_imputer)
    update_registered_converter(OneHotEncoder, "UndriftOneHotEncoder", _encoder_shapes, _convert_encoder)


def _number(operator: Any) -> Any:
    """The type of what an operator is given: double stays double, all else is single."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    return DoubleTensorType if isinstance(operator.inputs[0].type, DoubleTensorType) else FloatTensorType


def _classifier_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType

    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = Int64TensorType([rows])
    operator.outputs[1].type = _number(operator)([rows, len(operator.raw_operator.classes_)])


def _regressor_shapes(operator: Any) -> None:
    operator.outputs[0].type = _number(operator)([operator.inputs[0].get_first_dimension(), 1])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto, helper
    from skl2onnx.common.data_types import DoubleTensorType

    found = read(operator.raw_operator)
    asked = container.get_options(operator.raw_operator, {"raw_scores": False}) if len(operator.outputs) == 2 else {}
    scores = bool(asked.get("raw_scores"))
    prefix = scope.get_unique_variable_name("undrift_trees")
    nodes = found.to_nodes(operator.inputs[0].full_name, f"{prefix}_out", prefix, scores=scores)
    kind = TensorProto.DOUBLE if _number(operator) is DoubleTensorType else TensorProto.FLOAT
    out = operator.outputs[-1].full_name
    nodes.append(helper.make_node("Cast", [f"{prefix}_out"], [out], to=kind))
    if len(operator.outputs) == 2:
        nodes.append(helper.make_node("ArgMax", [out], [operator.outputs[0].full_name], axis=1, keepdims=0))
    _add_nodes(scope, container, nodes)


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """In double precision, which the runtime's own imputer does not know; everything else is left to it."""
    from onnx import helper
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.operator_converters.imputer_op import convert_sklearn_imputer

    imputer = operator.raw_operator
    plain = imputer.missing_values is np.nan or imputer.missing_values != imputer.missing_values
    statistics = np.asarray(imputer.statistics_)
    known = statistics.dtype.kind == "f" or all(isinstance(value, float) for value in statistics.tolist())
    if _number(operator) is not DoubleTensorType or not plain or not known or imputer.add_indicator:
        convert_sklearn_imputer(scope, operator, container)
        return
    if len(operator.inputs) > 1 or np.isnan(statistics.astype(float)).any():
        raise ModelError("this imputer is not compiled in double precision.")
    given, out = operator.inputs[0].full_name, operator.outputs[0].full_name
    prefix = scope.get_unique_variable_name("undrift_imputer")
    nodes = [
        constant(f"{prefix}_values", statistics.astype(float).tolist()),
        helper.make_node("IsNaN", [given], [f"{prefix}_missing"]),
        helper.make_node("Where", [f"{prefix}_missing", f"{prefix}_values", given], [out]),
    ]
    _add_nodes(scope, container, nodes)


def _takes_new_text(operator: Any) -> bool:
    """Whether it encodes text and takes what it does not know, and drops no category."""
    from skl2onnx.common.data_types import StringTensorType

    encoder = operator.raw_operator
    text = all(isinstance(i.type, StringTensorType) and isinstance(i.type.shape[1], int) for i in operator.inputs)
    return text and encoder.drop is None and encoder.handle_unknown in ("ignore", "infrequent_if_exist", "warn")


def _rare(encoder: Any) -> list[Any]:
    """The categories of each column that share one output; None where there is no such output."""
    found: list[Any] | None = getattr(encoder, "infrequent_categories_", None)
    return found if found is not None else [None] * len(encoder.categories_)


def _encoder_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
    from skl2onnx.shape_calculators.one_hot_encoder import calculate_sklearn_one_hot_encoder_output_shapes

    if not _takes_new_text(operator):
        calculate_sklearn_one_hot_encoder_output_shapes(operator)
        return
    encoder = operator.raw_operator
    both = zip(encoder.categories_, _rare(encoder), strict=True)
    width = sum(len(known) if rare is None else len(known) - len(rare) + 1 for known, rare in both)
    kind = Int64TensorType if np.issubdtype(encoder.dtype, np.signedinteger) else FloatTensorType
    operator.outputs[0].type = kind([operator.inputs[0].get_first_dimension(), width])


def _convert_encoder(scope: Any, operator: Any, container: Any) -> None:
    """Text that is rare or new, which the library's own converter takes for an error; everything else is left to it.

    Rare categories share the last output of their column. What is new has no output, or that of the rare ones where the
    encoder says so (``infrequent_if_exist``): then it is 1 wherever none of the frequent ones is.
    """
    from onnx import TensorProto
    from skl2onnx.operator_converters.one_hot_encoder import convert_sklearn_one_hot_encoder

    if not _takes_new_text(operator):
        convert_sklearn_one_hot_encoder(scope, operator, container)
        return

    def node(kind: str, inputs: list[str], domain: str = "", version: int = 13, **attributes: Any) -> str:
        out: str = scope.get_unique_variable_name(f"undrift_encoder_{kind}")
        container.add_node(kind, inputs, [out], op_domain=domain, op_version=version,
                           name=scope.get_unique_operator_name(kind), **attributes)  # fmt: skip
        return out

    def known(name: str, words: Sequence[Any]) -> str:
        spelled = [str(word).encode() for word in words]
        return node("OneHotEncoder", [name], "ai.onnx.ml", 1, cats_strings=spelled, zeros=1)

    def number(value: float, kind: int) -> str:
        name: str = scope.get_unique_variable_name("undrift_encoder_number")
        container.add_initializer(name, kind, [1], [value])
        return name

    encoder, parts = operator.raw_operator, list[str]()
    columns = [(given, place) for given in operator.inputs for place in range(given.type.shape[1])]
    for (given, place), words, rare in zip(columns, encoder.categories_, _rare(encoder), strict=True):
        name = given.full_name
        if given.type.shape[1] > 1:
            name = node("Gather", [name, number(place, TensorProto.INT64)], axis=1)
        few = set() if rare is None else set(rare)
        frequent = [word for word in words if word not in few]
        if frequent:
            parts.append(known(name, frequent))
        if rare is None:
            continue
        last = number(-1, TensorProto.INT64)
        if encoder.handle_unknown == "ignore" or not frequent:
            found = node("ReduceSum", [known(name, list(rare)), last], keepdims=1)
            if encoder.handle_unknown != "ignore":  # all are rare, so all that is new is as well: always 1
                found = node("Max", [found, number(1.0, TensorProto.FLOAT)])
        else:
            seen = node("ReduceSum", [parts[-1], last], keepdims=1)
            found = node("Sub", [number(1.0, TensorProto.FLOAT), seen])
        parts.append(found)
    # an encoder gives one more dimension than a column has: rows, 1, categories
    joined = parts[0] if len(parts) == 1 else node("Concat", parts, axis=-1)
    if np.issubdtype(encoder.dtype, np.signedinteger):
        joined = node("Cast", [joined], to=TensorProto.INT64)
    shape: str = scope.get_unique_variable_name("undrift_encoder_shape")
    container.add_initializer(shape, TensorProto.INT64, [2], [-1, operator.outputs[0].type.shape[1]])
    container.add_node("Reshape", [joined, shape], [operator.outputs[0].full_name], op_version=13,
                       name=scope.get_unique_operator_name("Reshape"))  # fmt: skip


def _add_nodes(scope: Any, container: Any, nodes: Sequence[Any]) -> None:
    from onnx.helper import get_attribute_value

    for node in nodes:
        container.add_node(
            node.op_type, list(node.input), list(node.output), op_domain=node.domain,
            op_version=3 if node.domain else 13,  # converters know no 5; graphs.opset_of_trees says so afterwards
            name=scope.get_unique_operator_name(node.op_type),
            **{a.name: get_attribute_value(a) for a in node.attribute},
        )  # fmt: skip
