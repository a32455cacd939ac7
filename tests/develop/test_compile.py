from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface, Manifest
from undrift.develop.compile import TOLERANCE, compare, compile_model, run_onnx
from undrift.develop.folds import TrainingData
from undrift.develop.rows import ask, native_rows, table_columns
from undrift.errors import ModelError


def native_of(model: Any, interface: Any, form: str = "skops") -> Any:
    manifest = Manifest(interface=interface, format=form, native=form, files={})
    return lambda columns: ask(model, interface.task, native_rows(manifest, columns))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_pipelines_compile_and_agree_also_on_absent_and_unseen_values(
    task: str, kind: str, flights: pa.Table, interface_of: Any, models: Any
) -> None:
    interface = interface_of(task)
    data = TrainingData.of(interface, flights)
    model = models[kind](data)
    found = compile_model(model, interface, native_of(model, interface), table_columns(interface.inputs, flights))
    assert found.parity.held, found.parity.reason
    assert found.parity.flips == 0
    # 25 rows each: an unseen carrier, no wind, and nothing that may be absent
    assert found.parity.rows - found.parity.boundary_rows == flights.num_rows + 3 * 25


def bare(task: str) -> dict[str, Any]:
    """Estimators as many people train them: no pipeline, a matrix of numbers."""
    from sklearn import ensemble, linear_model, tree

    if task == "regression":
        return {
            "ridge": linear_model.Ridge(),
            "tree": tree.DecisionTreeRegressor(max_depth=5, random_state=0),
            "forest": ensemble.RandomForestRegressor(10, max_depth=6, n_jobs=1, random_state=0),
            "boosting": ensemble.HistGradientBoostingRegressor(max_iter=20, random_state=0),
        }
    return {
        "logistic": linear_model.LogisticRegression(max_iter=2000),
        "tree": tree.DecisionTreeClassifier(max_depth=5, random_state=0),
        "forest": ensemble.RandomForestClassifier(10, max_depth=6, n_jobs=1, random_state=0),
        "boosting": ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0),
        "gradient": ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0),
    }


@pytest.mark.parametrize(
    ("task", "kind"), [(task, kind) for task in ("binary", "multiclass", "regression") for kind in bare(task)]
)
def test_estimators_without_a_pipeline_compile_with_one_tensor_per_input(
    task: str, kind: str, flights: pa.Table, interface_of: Any
) -> None:
    from threadpoolctl import threadpool_limits

    whole = interface_of(task)
    numbers = tuple(Field(name=f.name, type=f.type, role=f.role) for f in whole.contract.fields if f.name != "carrier")
    interface = interface_of(task, contract=type(whole.contract)(name="flights", fields=numbers), segments=())
    rows = flights.filter(flights["wind"].is_valid())
    data = TrainingData.of(interface, rows)
    with threadpool_limits(1):
        model = bare(task)[kind].fit(data.X, data.y)
    columns = table_columns(interface.inputs, rows)
    found = compile_model(model, interface, native_of(model, interface), columns)
    assert found.parity.held, found.parity.reason
    assert found.parity.rows - found.parity.boundary_rows == rows.num_rows
    one = {"hour": [8], "night": [True], "wind": [3.5]}
    got = run_onnx(found.content, interface)(one)
    np.testing.assert_allclose(got, native_of(model, interface)(one), atol=1e-4, rtol=1e-4)


def test_an_estimator_that_was_fitted_on_text_alone_compiles(flights: pa.Table, interface_of: Any) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    fields = (Field(name="carrier", type="string"), Field(name="band", type="string"))
    interface = interface_of(contract=Contract(name="text", fields=fields), key="", time="", segments=())
    data = TrainingData.of(interface, flights)
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(data.X, data.y)
    found = compile_model(model, interface, native_of(model, interface), table_columns(interface.inputs, flights))
    assert found.parity.held, found.parity.reason


def test_trees_that_split_text_natively_do_not_serve_compiled(flights: pa.Table, interface_of: Any) -> None:
    """The converters ignored native categories without a word; the trees of trees.py refuse them."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    interface = interface_of()
    data = TrainingData.of(interface, flights)
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    columns = ColumnTransformer([("c", codes, [0]), ("n", "passthrough", data.numeric)])
    trees = HistGradientBoostingClassifier(categorical_features=[0], max_iter=20, random_state=0)
    model = make_pipeline(columns, trees).fit(data.X, data.y)
    found = compile_model(model, interface, native_of(model, interface), table_columns(interface.inputs, flights))
    assert not found.parity.held
    assert found.parity.max_difference > TOLERANCE or "cannot be converted" in found.parity.reason


def test_a_model_without_converter_says_so_and_does_not_raise(flights: pa.Table, interface_of: Any) -> None:
    class Own:
        def predict_proba(self, X: Any) -> Any:
            return np.full((len(X), 2), 0.5)

        predict = predict_proba

    interface = interface_of()
    found = compile_model(Own(), interface, native_of(Own(), interface), table_columns(interface.inputs, flights))
    assert found.content == b""
    assert "Own is a class of somebody's own, which no converter knows" in found.parity.reason


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_boosters_compile_column_by_column(library: str, task: str, flights: pa.Table, interface_of: Any) -> None:
    kinds = pytest.importorskip(library)
    whole = interface_of(task)
    numbers = tuple(f for f in whole.contract.fields if f.name != "carrier")
    interface = interface_of(task, contract=type(whole.contract)(name="flights", fields=numbers), segments=())
    data = TrainingData.of(interface, flights)
    prefix = "LGBM" if library == "lightgbm" else "XGB"
    kind = getattr(kinds, prefix + ("Regressor" if task == "regression" else "Classifier"))
    model = kind(n_estimators=8, n_jobs=1, **({"verbosity": -1} if library == "lightgbm" else {})).fit(data.X, data.y)
    native, columns = native_of(model, interface, library), table_columns(interface.inputs, flights)
    found = compile_model(model, interface, native, columns)
    assert found.parity.held, found.parity.reason
    assert found.parity.max_difference < 1e-6  # XGBoost adds in float32, the compiled form in float64
    assert [i.name for i in interface.inputs] == ["hour", "night", "wind"]
    got = run_onnx(found.content, interface)({"hour": [8], "night": [None], "wind": [3.5]})
    one = {"hour": [8], "night": [None], "wind": [3.5]}
    np.testing.assert_allclose(got, native(one), atol=1e-5, rtol=1e-5)


def test_a_compiled_form_that_answers_what_the_original_refuses_does_not_hold(
    flights: pa.Table, interface_of: Any
) -> None:
    interface = interface_of()

    def strict(columns: Any) -> Any:
        if np.isnan(np.asarray(columns["wind"], dtype=float)).all():
            return np.full((len(columns["wind"]), 2), np.nan)
        return np.full((len(columns["wind"]), 2), 0.5)

    def lax(columns: Any) -> Any:
        return np.full((len(columns["wind"]), 2), 0.5)

    columns = table_columns(interface.inputs, flights)
    found = compare(interface, strict, lax, columns)
    assert not found.held
    assert "answers rows with no wind, which the original refuses" in found.reason
    assert compare(interface, strict, strict, columns).held


def test_rows_that_change_class_are_counted(flights: pa.Table, interface_of: Any) -> None:
    def constant(p: float) -> Any:
        return lambda columns: np.tile([1 - p, p], (len(columns["wind"]), 1))

    columns = table_columns(interface_of().inputs, flights)
    found = compare(interface_of(), constant(0.45), constant(0.55), columns)
    assert found.max_difference == pytest.approx(0.1)
    assert found.flips == found.rows == flights.num_rows + 75
    assert not found.held


def test_a_file_for_another_interface_or_none_at_all_is_refused(
    flights: pa.Table, interface_of: Any, models: Any
) -> None:
    interface = interface_of()
    model = models["linear"](TrainingData.of(interface, flights))
    content = compile_model(
        model, interface, native_of(model, interface), table_columns(interface.inputs, flights)
    ).content
    fewer = type(interface.contract)(name="x", fields=interface.contract.fields[:4])
    with pytest.raises(ModelError, match="takes"):
        run_onnx(content, interface_of(contract=fewer))
    with pytest.raises(ModelError, match="cannot be loaded"):
        run_onnx(b"no graph", interface)


def test_names_that_are_no_identifiers_survive_compilation(flights: pa.Table, interface_of: Any, models: Any) -> None:
    whole = interface_of()
    renamed = {"wind": "wind speed (kn)", "carrier": "carrier-code"}
    fields = tuple(
        type(f)(name=renamed.get(f.name, f.name), type=f.type, role=f.role, nullable=f.nullable)
        for f in whole.contract.fields
    )
    interface = interface_of(contract=type(whole.contract)(name="x", fields=fields), segments=())
    table = flights.rename_columns([renamed.get(c, c) for c in flights.column_names])
    model = models["linear"](TrainingData.of(interface, table))
    found = compile_model(model, interface, native_of(model, interface), table_columns(interface.inputs, table))
    assert found.parity.held, found.parity.reason


def test_compiling_leaves_logging_as_it_was(flights: pa.Table, interface_of: Any, models: Any) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("skl2onnx").level)
    interface = interface_of()
    model = models["linear"](TrainingData.of(interface, flights))
    compile_model(model, interface, native_of(model, interface), table_columns(interface.inputs, flights))
    assert (list(root.handlers), root.level, logging.getLogger("skl2onnx").level) == before


@pytest.mark.parametrize("place", range(4))
def test_histogram_trees_agree_where_a_threshold_lies_between_neighbouring_numbers(place: int) -> None:
    """Of two neighbouring float32 the one with the even last digit is nearest to their middle: half of the time, up."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    low = np.float32(1.0)
    for _ in range(place):
        low = np.nextafter(low, np.float32(2.0))
    values = np.repeat(np.array([low, np.nextafter(low, np.float32(2.0))], dtype=np.float64), 40)
    contract = Contract(name="pair", fields=(Field(name="x", type="number"),))
    interface = Interface(model="pair", task="regression", contract=contract, label="y")
    trees = HistGradientBoostingRegressor(max_iter=1, learning_rate=1.0, min_samples_leaf=1)
    model = make_pipeline(FunctionTransformer(), trees).fit(values.reshape(-1, 1), np.repeat([0.0, 1.0], 40))
    columns = {"x": values}
    found = compile_model(model, interface, native_of(model, interface), columns)
    assert found.parity.held, found.parity.reason
    answers = run_onnx(found.content, interface)(columns)
    assert answers[0] < 0.5 < answers[-1]


def fitted(flights: pa.Table, interface: Interface, last: Any) -> Any:
    """A pipeline that scales its numbers, so that thresholds lie between values that rounding moves."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from threadpoolctl import threadpool_limits

    data = TrainingData.of(interface, flights.slice(0, 600))
    columns = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), data.categorical),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), data.numeric),
        ],
        sparse_threshold=0,
    )
    with threadpool_limits(1):
        return make_pipeline(columns, last).fit(data.X, data.y)


def ensembles() -> dict[str, tuple[str, Any]]:
    from sklearn import ensemble, tree

    trees = ensemble.HistGradientBoostingClassifier(max_iter=10, random_state=0)
    return {
        "histogram": ("binary", trees),
        "histogram, three classes": ("multiclass", trees),
        "histogram, values": ("regression", ensemble.HistGradientBoostingRegressor(max_iter=10, random_state=0)),
        "forest": ("binary", ensemble.RandomForestClassifier(10, max_depth=6, random_state=0)),
        "forest, three classes": ("multiclass", ensemble.ExtraTreesClassifier(10, max_depth=6, random_state=0)),
        "forest, values": ("regression", ensemble.RandomForestRegressor(10, max_depth=6, random_state=0)),
        "gradient": ("binary", ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0)),
        "gradient, exponential": (
            "binary",
            ensemble.GradientBoostingClassifier(n_estimators=10, loss="exponential", random_state=0),
        ),
        "tree": ("binary", tree.DecisionTreeClassifier(max_depth=6, random_state=0)),
    }


@pytest.mark.parametrize(
    ("kind", "fed"), [*((kind, "single") for kind in ensembles()), ("histogram", "double"), ("forest", "double")]
)
def test_trees_behind_a_scaler_send_rows_at_their_thresholds_to_the_same_side(
    kind: str, fed: Any, flights: pa.Table, interface_of: Any
) -> None:
    from threadpoolctl import threadpool_limits

    task, last = ensembles()[kind]
    interface = interface_of(task)
    model = fitted(flights, interface, last)
    manifest = Manifest(interface=interface, format="skops", native="skops", files={}, fed=fed)

    def native(columns: Any) -> Any:
        return ask(model, task, native_rows(manifest, columns))

    with threadpool_limits(1):
        columns = table_columns(interface.inputs, flights.slice(0, 300))
        found = compile_model(model, interface, native, columns, fed=fed)
    assert found.parity.held, found.parity.reason
    assert found.parity.boundary_rows > 0
    assert found.parity.precision == "double"
    assert found.parity.max_difference < 1e-13
    assert found.parity.flips == 0


def test_a_conversion_in_single_precision_flips_rows_at_thresholds_and_is_found_out(
    flights: pa.Table, interface_of: Any
) -> None:
    """What boundaries.py is for: without it the rows given show nothing, or too little."""
    from undrift.develop.converters import conversions

    interface = interface_of()
    model = fitted(flights, interface, ensembles()["histogram"][1])
    single = next(way for way in conversions(model, interface.inputs) if way.precision == "single")
    run = run_onnx(single.convert(model, interface.inputs), interface)
    columns = table_columns(interface.inputs, flights.slice(0, 300))
    found = compare(interface, native_of(model, interface), run, columns)
    assert not found.held
    assert "values at the model's thresholds" in found.reason


@pytest.mark.parametrize("kind", ["neighbours", "neighbours, values", "bagged trees"])
def test_what_float32_moves_compiles_in_double_precision(kind: str) -> None:
    """Converters declare the answers of such graphs as float32, which no runtime loads: the declaration is mended."""
    from sklearn.ensemble import BaggingClassifier
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)).astype(np.float32).astype(float)  # no two rows are equally far from a third
    value = X[:, 0] + X[:, 1] * X[:, 2]
    last, task = {
        "neighbours": (KNeighborsClassifier(5), "binary"),
        "neighbours, values": (KNeighborsRegressor(5), "regression"),
        "bagged trees": (BaggingClassifier(n_estimators=5, random_state=0), "binary"),
    }[kind]
    fields = tuple(Field(name=name, type="number") for name in "abc")
    interface = Interface(
        model="m", task=task, contract=Contract(name="m", fields=fields), label="y",  # type: ignore[arg-type]
        classes=("0", "1") if task == "binary" else (),
    )  # fmt: skip
    with threadpool_limits(1):
        model = make_pipeline(StandardScaler(), last).fit(X, value if task == "regression" else value > 0)
        columns = {name: X[:, place] for place, name in enumerate("abc")}
        found = compile_model(model, interface, native_of(model, interface), columns)
    assert found.parity.held, found.parity.reason
    assert found.parity.flips == 0


def test_known_traps_do_not_serve_compiled(flights: pa.Table, interface_of: Any) -> None:
    """Neighbours equally far, steps of isotonic calibration drawn as another curve, a softmax for a sigmoid."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsRegressor

    isotonic = CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=2)
    for task, last in (
        ("binary", isotonic),
        ("regression", KNeighborsRegressor(5)),
        ("binary", LinearDiscriminantAnalysis()),
    ):
        interface = interface_of(task)
        model = fitted(flights, interface, last)
        columns = table_columns(interface.inputs, flights.slice(0, 500))
        found = compile_model(model, interface, native_of(model, interface), columns)
        assert not found.parity.held
        assert "differ by up to" in found.parity.reason
