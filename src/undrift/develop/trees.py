"""Tree ensembles as one ONNX node in double precision: thresholds, leaves and sums are what the library has.

The converters' own trees are in single precision, which sends rows near a threshold to the other side. Read here are
scikit-learn's trees, LightGBM and XGBoost (whose trees are single by themselves); what a reader does not know
(categories in splits, zero as missing, DART) it refuses, and the model takes another way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from undrift.errors import ModelError

__all__ = ["Ensemble", "booster_graph", "constant", "has_trees", "read"]

_LEQ, _LT = 0, 1
_CLASSES: Final = 10  # a leaf has one value, so a tree of probabilities is repeated for each class
_EXP: Final = ("gamma", "poisson", "tweedie")


@dataclass
class Ensemble:
    """Trees whose leaves are summed per target, then linked.

    Links are ``identity``, ``sigmoid``, ``softmax``, ``exp`` and ``share``, which is a probability already. ``rows``
    says in which precision the library looks at values, ``sums`` in which it compares and adds, ``divisor`` by what the
    sums are divided.
    """

    targets: int
    link: str
    base: list[float]
    slope: float = 1.0
    rows: str = "double"
    sums: str = "double"
    divisor: float = 1.0
    roots: list[int] = field(default_factory=list)
    nodes: list[tuple[int, float, int, int, int, int, int, int]] = field(default_factory=list)
    leaves: list[tuple[int, float]] = field(default_factory=list)

    def add(self, target: int, root: int, splits: Mapping[int, tuple[Any, ...]], values: Mapping[int, float]) -> None:
        """Add a tree.

        Parameters
        ----------
        splits : by node ``(feature, threshold, mode, if true, if false, whether what is missing goes as true)``.
        values : by leaf.
        """
        start, places = len(self.nodes), {name: place for place, name in enumerate(splits)}
        leaves = {}
        for name, value in values.items():
            leaves[name] = len(self.leaves)
            self.leaves.append((target, value))

        def child(name: int) -> tuple[int, int]:
            return (leaves[name], 1) if name in leaves else (start + places[name], 0)

        if not splits:  # a tree that is one leaf: a split whose sides are the same
            self.nodes.append((0, 0.0, _LEQ, leaves[root], 1, leaves[root], 1, 0))
            self.roots.append(start)
            return
        for feature, threshold, mode, true, false, missing in splits.values():
            self.nodes.append((feature, threshold, mode, *child(true), *child(false), int(missing)))
        self.roots.append(start + places[root])

    def to_nodes(self, given: str, out: str, prefix: str, *, scores: bool = False) -> list[Any]:
        """ONNX nodes from a matrix named ``given`` to probabilities or values (n, k) in double precision, ``out``.

        With ``scores``, the decision function: what is before the link.
        """
        from onnx import TensorProto, helper, numpy_helper

        kind = TensorProto.FLOAT if self.sums == "single" else TensorProto.DOUBLE
        number: Any = np.float32 if self.sums == "single" else np.float64
        rounded = TensorProto.FLOAT if self.rows == "single" else TensorProto.DOUBLE
        columns = list(zip(*self.nodes, strict=True))
        nodes = [
            helper.make_node("Cast", [given], [f"{prefix}_seen"], to=rounded),
            helper.make_node("Cast", [f"{prefix}_seen"], [f"{prefix}_rows"], to=kind),
            helper.make_node(
                "TreeEnsemble",
                [f"{prefix}_rows"],
                [f"{prefix}_trees"],
                domain="ai.onnx.ml",
                n_targets=self.targets,
                aggregate_function=1,
                post_transform=0,
                tree_roots=self.roots,
                nodes_featureids=columns[0],
                nodes_splits=numpy_helper.from_array(np.array(columns[1], dtype=number)),
                nodes_modes=numpy_helper.from_array(np.array(columns[2], dtype=np.uint8)),
                nodes_truenodeids=columns[3],
                nodes_trueleafs=columns[4],
                nodes_falsenodeids=columns[5],
                nodes_falseleafs=columns[6],
                nodes_missing_value_tracks_true=columns[7],
                leaf_targetids=[leaf[0] for leaf in self.leaves],
                leaf_weights=numpy_helper.from_array(np.array([leaf[1] for leaf in self.leaves], dtype=number)),
            ),
            helper.make_node("Cast", [f"{prefix}_trees"], [f"{prefix}_sums"], to=TensorProto.DOUBLE),
            constant(f"{prefix}_base", self.base),
            constant(f"{prefix}_divisor", [self.divisor]),
            helper.make_node("Div", [f"{prefix}_sums", f"{prefix}_divisor"], [f"{prefix}_mean"]),
            helper.make_node("Add", [f"{prefix}_mean", f"{prefix}_base"], [f"{prefix}_raw"]),
        ]
        raw = f"{prefix}_raw"
        if self.link == "identity" or (scores and self.link == "softmax"):
            return [*nodes, helper.make_node("Identity", [raw], [out])]
        if self.link == "exp":
            return [*nodes, helper.make_node("Exp", [raw], [out])]
        if self.link == "softmax":
            return [*nodes, helper.make_node("Softmax", [raw], [out], axis=1)]
        if self.link == "share":
            one, negative = f"{prefix}_one", f"{prefix}_negative"
            nodes += [constant(one, [1.0]), helper.make_node("Sub", [one, raw], [negative])]
            return [*nodes, helper.make_node("Concat", [negative, raw], [out], axis=1)]
        # both classes from the same number, so that neither loses digits: 1 - sigmoid(x) = sigmoid(-x)
        slope = 1.0 if scores else self.slope
        nodes.append(constant(f"{prefix}_slopes", [-slope, slope]))
        nodes.append(helper.make_node("Mul", [raw, f"{prefix}_slopes"], [f"{prefix}_both"]))
        return [*nodes, helper.make_node("Identity" if scores else "Sigmoid", [f"{prefix}_both"], [out])]


def constant(name: str, values: list[float]) -> Any:
    """A node that gives one row of float64."""
    from onnx import helper, numpy_helper

    value = numpy_helper.from_array(np.array([values], dtype=np.float64))
    return helper.make_node("Constant", [], [name], value=value)


def _read_histogram_trees(model: Any) -> Ensemble:
    """The trees of a HistGradientBoostingClassifier or -Regressor.

    Raises
    ------
    ModelError : it splits by categories.
    """
    if getattr(model, "is_categorical_", None) is not None and np.any(model.is_categorical_):
        raise ModelError("histogram trees with native categories cannot be compiled.")
    k = int(model.n_trees_per_iteration_)
    link = "identity"
    if hasattr(model, "classes_"):
        link = "sigmoid" if k == 1 else "softmax"
    elif model.loss in _EXP:
        link = "exp"
    base = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1).tolist()
    found = Ensemble(targets=k, link=link, base=base)
    for iteration in model._predictors:
        for target, predictor in enumerate(iteration):
            splits, values = {}, {}
            for place, node in enumerate(predictor.nodes):
                if node["is_leaf"]:
                    values[place] = float(node["value"])
                else:
                    splits[place] = (int(node["feature_idx"]), float(node["num_threshold"]), _LEQ, int(node["left"]),
                                     int(node["right"]), bool(node["missing_go_to_left"]))  # fmt: skip
            found.add(target, 0, splits, values)
    return found


def _read_forest(model: Any) -> Ensemble:
    """The trees of a decision tree, a forest or scikit-learn's older gradient boosting; they see float32."""
    if int(getattr(model, "n_outputs_", 1)) != 1:
        raise ModelError("trees of several outputs are not compiled here.")
    k = len(getattr(model, "classes_", ())) or 1
    members = getattr(model, "estimators_", None)
    if hasattr(model, "_raw_predict_init"):
        return _read_gradient_boosting(model, k)
    trees = [model.tree_] if members is None else [member.tree_ for member in members]
    if k > _CLASSES:
        raise ModelError(f"forests of {k} classes are not compiled here.")
    targets = range(1, 2) if k == 2 else range(k)  # of two classes, the positive one says all
    link = "share" if k == 2 else "identity"
    found = Ensemble(targets=len(targets), link=link, base=[0.0] * len(targets), rows="single", divisor=len(trees))
    for tree in trees:
        values = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True) if k > 1 else tree.value[:, 0, :]
        for target, column in enumerate(targets):
            _add_tree(found, target, tree, values[:, column])
    return found


def _read_gradient_boosting(model: Any, k: int) -> Ensemble:
    if type(model.init_).__name__ not in ("DummyClassifier", "DummyRegressor", "str"):
        raise ModelError("gradient boosting that begins with another model is not compiled here.")
    base = np.asarray(model._raw_predict_init(np.zeros((1, model.n_features_in_))), dtype=np.float64).reshape(-1)
    link = "identity" if k == 1 else "sigmoid" if k == 2 else "softmax"
    slope = 2.0 if getattr(model, "loss", "") == "exponential" else 1.0
    found = Ensemble(targets=len(base), link=link, base=base.tolist(), slope=slope, rows="single")
    for stage in model.estimators_:
        for target, member in enumerate(stage):
            _add_tree(found, target, member.tree_, member.tree_.value[:, 0, 0] * model.learning_rate)
    return found


def _add_tree(found: Ensemble, target: int, tree: Any, values: Any) -> None:
    missing = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count))
    leaves, splits = {}, {}
    for place in range(tree.node_count):
        left, right = int(tree.children_left[place]), int(tree.children_right[place])
        if left < 0:
            leaves[place] = float(values[place])
        else:
            splits[place] = (int(tree.feature[place]), float(tree.threshold[place]), _LEQ, left, right,
                             bool(missing[place]))  # fmt: skip
    found.add(target, 0, splits, leaves)


def _read_lightgbm(booster: Any) -> Ensemble:
    said = booster.dump_model()
    objective, *rest = str(said.get("objective", "")).split(" ")
    options = dict(part.split(":", 1) for part in rest if ":" in part)
    k = int(said["num_tree_per_iteration"])
    if said.get("average_output") or "sqrt" in rest or objective not in _LIGHTGBM:
        raise ModelError(f"LightGBM's objective {objective!r} cannot be compiled here.")
    link = _LIGHTGBM[objective]
    slope = float(options.get("sigmoid", 1.0)) if link == "sigmoid" else 1.0
    found = Ensemble(targets=k, link=link, base=[0.0] * k, slope=slope)
    for place, tree in enumerate(said["tree_info"]):
        splits: dict[int, tuple[Any, ...]] = {}
        values: dict[int, float] = {}
        waiting, root = [tree["tree_structure"]], -1
        names: dict[int, int] = {id(tree["tree_structure"]): 0}
        while waiting:
            node = waiting.pop()
            name = names[id(node)]
            root = name if root < 0 else root
            if "leaf_value" in node:
                values[name] = float(node["leaf_value"])
                continue
            if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
                raise ModelError("LightGBM's trees with categories or with zero as missing cannot be compiled here.")
            for side in ("left_child", "right_child"):
                names[id(node[side])] = len(names)
                waiting.append(node[side])
            threshold = float(node["threshold"])
            missing = (
                node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0.0
            )  # else NaN counts as 0
            left, right = names[id(node["left_child"])], names[id(node["right_child"])]
            splits[name] = (int(node["split_feature"]), threshold, _LEQ, left, right, missing)
        found.add(place % k, root, splits, values)
    return found


_LIGHTGBM: Final = {
    "binary": "sigmoid", "cross_entropy": "sigmoid", "multiclass": "softmax", "regression": "identity",
    "regression_l1": "identity", "huber": "identity", "fair": "identity", "quantile": "identity", "mape": "identity",
    "poisson": "exp", "gamma": "exp", "tweedie": "exp",
}  # fmt: skip
_XGBOOST: Final = {
    "binary:logistic": "sigmoid", "reg:logistic": "sigmoid", "multi:softprob": "softmax",
    "reg:squarederror": "identity", "reg:absoluteerror": "identity", "reg:pseudohubererror": "identity",
    "reg:quantileerror": "identity", "count:poisson": "exp", "reg:gamma": "exp", "reg:tweedie": "exp",
}  # fmt: skip


def _read_xgboost(booster: Any) -> Ensemble:
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective, kept = learner["objective"]["name"], learner["gradient_booster"]
    if kept["name"] != "gbtree" or objective not in _XGBOOST:
        raise ModelError(f"XGBoost's {kept['name']} with {objective!r} cannot be compiled here.")
    k = max(int(learner["learner_model_param"]["num_class"]), 1)
    if int(learner["learner_model_param"].get("num_target", 1)) > 1:
        raise ModelError("XGBoost models of several targets cannot be compiled here.")
    link = _XGBOOST[objective]
    score = np.array(json.loads(learner["learner_model_param"]["base_score"]), dtype=np.float64).reshape(-1)
    base = np.log(score / (1 - score)) if link == "sigmoid" else np.log(score) if link == "exp" else score
    found = Ensemble(targets=k, link=link, base=np.resize(base, k).tolist(), rows="single", sums="single")
    for tree, target in zip(kept["model"]["trees"], kept["model"]["tree_info"], strict=True):
        if tree["categories_nodes"]:
            raise ModelError("XGBoost's trees with categories cannot be compiled here.")
        left, right = tree["left_children"], tree["right_children"]
        splits, values = {}, {}
        for place, at in enumerate(tree["split_conditions"]):
            if left[place] < 0:
                values[place] = float(at)
            else:
                missing = bool(tree["default_left"][place])
                splits[place] = (tree["split_indices"][place], float(at), _LT, left[place], right[place], missing)
        found.add(int(target), 0, splits, values)
    return found


def booster_graph(model: Any, width: int) -> Any:
    """The ONNX graph of a LightGBM or XGBoost model: one matrix of ``width`` columns in, probabilities or values out.

    Raises
    ------
    ModelError : its trees cannot be compiled here.
    """
    from onnx import TensorProto, helper

    found = read(model)
    given = helper.make_tensor_value_info("rows", TensorProto.DOUBLE, [None, width])
    k = 2 if found.link == "sigmoid" else found.targets
    out = helper.make_tensor_value_info("scores", TensorProto.DOUBLE, [None, k])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 5)]
    graph = helper.make_graph(found.to_nodes("rows", "scores", "undrift_trees"), "undrift", [given], [out])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def read(model: Any) -> Ensemble:
    """The trees of a fitted model.

    Raises
    ------
    ModelError : they have parts that are not compiled here.
    """
    library = type(model).__module__.partition(".")[0]
    if library == "lightgbm":
        return _read_lightgbm(getattr(model, "booster_", model))
    if library == "xgboost":
        return _read_xgboost(model.get_booster() if hasattr(model, "get_booster") else model)
    return _read_histogram_trees(model) if hasattr(model, "_predictors") else _read_forest(model)


def has_trees(model: Any) -> bool:
    """Whether an estimator splits by thresholds."""
    library = type(model).__module__.partition(".")[0]
    return library in ("lightgbm", "xgboost") or hasattr(model, "_predictors") or hasattr(model, "tree_")
