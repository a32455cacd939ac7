"""A fitted model made into a bundle: stored, compiled if that holds, profiled, measured, with golden requests.

Trained and adopted models take the same way from here. The reference profile and the expected performance come of the
rows given; which rows those are is the caller's choice and stands in training.py and adoption.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undrift.data.profile import Profile
from undrift.data.text import Vocabulary, measured, profile_of
from undrift.develop.bundle import (
    Fed,
    GoldenRow,
    Input,
    Interface,
    Manifest,
    read_profile,
    write_bundle,
)
from undrift.develop.compile import Compiled, Parity, Predict, compile_model, dense_if_equal, run_onnx
from undrift.develop.importance import BACKGROUND_FILE, IMPORTANCE_FILE, Background, importance_of
from undrift.develop.performance import LOSSES, Performance, Scored
from undrift.develop.quantise import quantise
from undrift.develop.rows import ask, encode, in_order, native_rows, table_columns
from undrift.develop.trust import save_model
from undrift.errors import CorruptModelError, ModelError, PredictionError, UntrustedModelError
from undrift.ids import to_micros
from undrift.settings import TrustSettings
from undrift.state.ports import Artifacts

__all__ = ["GOLDEN_ROWS", "Packed", "Reference", "pack"]

GOLDEN_ROWS: Final = 24
GOLDEN_ABSENT: Final = 8
_NEVER: Final = {
    "python": "it is Python code, which has no compiled form",
    "pyfunc": "MLflow runs it, and knows no compiled form of it",
    "upstream": "another server runs it",
}


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The reference profile of a version: profile.json of its bundle.

    ``inputs``: the model's inputs; of personal ones rows and nulls alone. ``outcomes``: the columns ``score``,
    ``prediction`` (not for regression) and, where it is known, ``label``. ``vocabularies``: of free text, of which
    ``inputs`` has what is measured (`data.text.measured`) and rows and nulls alone of the column itself.
    """

    inputs: Profile
    outcomes: Profile
    vocabularies: dict[str, Vocabulary] = {}

    @classmethod
    def of_inputs(cls, interface: Interface, table: pa.Table, outcomes: Profile) -> Reference:
        """The reference of the rows a model learnt from.

        Words of free text are learnt on every other row, and the share of new ones is measured on the rows between.
        """
        plain = table.select([i.name for i in interface.inputs])
        profile = Profile.of(plain).without_values((*interface.personal, *interface.texts))
        if not interface.texts:
            return cls(inputs=profile, outcomes=outcomes)
        even, odd = (plain.select(interface.texts).take(np.arange(k, plain.num_rows, 2)) for k in (0, 1))
        vocabularies = {name: Vocabulary.of(even[name]) for name in interface.texts}
        columns = measured({name: odd[name] for name in interface.texts}, vocabularies)
        found = profile_of(columns, vocabularies)
        inputs = msgspec.structs.replace(profile, columns={**profile.columns, **found.columns})
        return cls(inputs=inputs, outcomes=outcomes, vocabularies=vocabularies)

    @classmethod
    def read(cls, folder: Path) -> Reference:
        """The reference profile of the bundle in a folder.

        Raises
        ------
        CorruptModelError : it cannot be read.
        """
        try:
            parts = msgspec.json.decode(read_profile(folder), type=dict[str, msgspec.Raw])
            return cls(
                inputs=Profile.from_json(bytes(parts["inputs"])),
                outcomes=Profile.from_json(bytes(parts["outcomes"])),
                vocabularies=msgspec.json.decode(parts.get("vocabularies", b"{}"), type=dict[str, Vocabulary]),
            )
        except (msgspec.MsgspecError, KeyError, ValueError) as error:
            raise CorruptModelError(f"the reference profile in {folder} cannot be read: {error}.") from error

    def to_json(self) -> str:
        """The content of profile.json."""
        words = msgspec.json.encode(self.vocabularies).decode()
        more = f', "vocabularies": {words}' if self.vocabularies else ""
        return f'{{"inputs": {self.inputs.to_json()}, "outcomes": {self.outcomes.to_json()}{more}}}'


class Packed(NamedTuple):
    """A stored bundle, and the rows it was measured on as its serving form answered them."""

    bundle: str
    manifest: Manifest
    scored: Scored


def pack(
    model: Any,
    interface: Interface,
    *,
    inputs_of: pa.Table,
    rows: pa.Table,
    label: NDArray[Any] | None,
    time: NDArray[Any] | None,
    trust: TrustSettings,
    artifacts: Artifacts,
    outputs: Sequence[str] = (),
    fed: Fed = "single",
    onnx: bytes = b"",
    code: Mapping[str, str] | None = None,
    trained: Mapping[str, Any] | None = None,
    quantised: bool = False,
) -> Packed:
    """Store, compile, measure and profile a model, and put the bundle into the artifacts.

    Parameters
    ----------
    model : the fitted model; None if ``onnx`` is the model.
    inputs_of : rows whose inputs are the reference.
    rows, label, time : rows the model was not trained on, with class codes or values, and times; they are what it is
        measured on, compared with its compiled form on, and asked for golden answers.
    onnx : an ONNX model with one tensor per input.
    quantised : whether the compiled model shall have 8-bit weights, if it judges as well (quantise.py).

    Raises
    ------
    PredictionError : the model cannot answer the rows.
    UntrustedModelError : it does not compile, and cannot be stored otherwise.
    """
    columns = table_columns(interface.inputs, rows)
    manifest = Manifest(interface=interface, format="onnx", native="onnx", files={}, fed=fed, outputs=tuple(outputs))
    models: dict[str, bytes] = {}
    if model is None:
        models["onnx"] = dense_if_equal(onnx, interface, columns, outputs)
        predict, compiled = run_onnx(models["onnx"], interface), dict[str, Any]()
    else:
        manifest, predict, models, compiled = _forms(model, manifest, columns, trust)
    if quantised:
        if "onnx" in models:
            models["onnx"], said_of_it = _quantise(models["onnx"], interface, columns, rows, label, outputs)
            predict = run_onnx(models["onnx"], interface)
        else:
            said_of_it = {"held": False, "reason": "only a compiled model can be quantised"}
        compiled["quantised"] = said_of_it
    raw = in_order(interface, predict(columns), outputs)
    scored = Scored(
        interface=interface, table=rows, label=label if label is not None else np.empty(0), raw=raw, time=time
    )
    said = dict(trained or {})
    if label is not None:
        said["performance"] = msgspec.to_builtins(Performance.of(scored))
    reference = Reference.of_inputs(interface, inputs_of, Profile.of(_outcomes(scored, label)))
    background = Background.of_table(interface, inputs_of)
    explaining, problem = _explaining(interface, predict, background, columns, outputs)
    if problem:
        said["unexplained"] = problem
    with tempfile.TemporaryDirectory(prefix="undrift-bundle-") as name:
        written = write_bundle(
            Path(name),
            interface=interface,
            format=manifest.format,
            native=manifest.native,
            models=models,
            profile=reference.to_json(),
            golden=_golden(interface, predict, rows, outputs, background),
            code=code,
            compiled=compiled,
            trained=said,
            fed=fed,
            outputs=outputs,
            beside=explaining,
        )
        digest = artifacts.put(Path(name))
    return Packed(digest, written, scored)


def _quantise(
    content: bytes,
    interface: Interface,
    columns: Mapping[str, Any],
    rows: pa.Table,
    label: NDArray[Any] | None,
    outputs: Sequence[str],
) -> tuple[bytes, dict[str, Any]]:
    def scored(raw: Any) -> Scored:
        known = label if label is not None else np.empty(0)
        return Scored(interface=interface, table=rows, label=known, raw=in_order(interface, raw, outputs))

    def loss(raw: Any) -> float:
        return float(np.mean(scored(raw).losses[LOSSES[interface.task][0]]))

    found, said = quantise(
        content, interface, columns, None if label is None else loss, lambda raw: scored(raw).answers.label
    )
    return found, msgspec.to_builtins(said)


def _forms(
    model: Any, manifest: Manifest, columns: Mapping[str, Any], trust: TrustSettings
) -> tuple[Manifest, Predict, dict[str, bytes], dict[str, Any]]:
    """The forms in which the model is kept, the one that serves, and why."""
    interface = manifest.interface
    try:
        kept, content = save_model(model, trust, width=len(interface.inputs))
        problem = None
    except (UntrustedModelError, ModelError) as error:
        kept, content, problem = "onnx", b"", error
    manifest = msgspec.structs.replace(manifest, native=kept)

    def native(given: Mapping[str, Any]) -> NDArray[np.float64]:
        return ask(model, interface.task, native_rows(manifest, given))

    if kept in _NEVER:
        found = Compiled(
            content=b"", parity=Parity(held=False, max_difference=0.0, flips=0, rows=0, reason=_NEVER[kept])
        )
    elif "onnx" in trust.formats:
        found = compile_model(model, interface, native, columns, manifest.outputs, fed=manifest.fed)
    else:
        reason = "trust.formats does not allow onnx"
        found = Compiled(content=b"", parity=Parity(held=False, max_difference=0.0, flips=0, rows=0, reason=reason))
    said: dict[str, Any] = msgspec.to_builtins(found.parity)
    models = {} if problem else {kept: content}
    if found.parity.held:
        models["onnx"] = found.content
        return manifest, run_onnx(found.content, interface), models, said
    if problem is not None:
        in_order(interface, native(columns), manifest.outputs)  # what it answers may be what is wrong
        raise problem
    return msgspec.structs.replace(manifest, format=kept), native, models, said


def _explaining(
    interface: Interface, predict: Predict, background: Background, columns: Mapping[str, Any], outputs: Sequence[str]
) -> tuple[dict[str, bytes], str]:
    """The files that explanations need, and why one of them could not be made."""
    files = {BACKGROUND_FILE: msgspec.json.encode(background)}
    try:
        found = importance_of(
            interface, lambda given: in_order(interface, predict(given), outputs), background, columns
        )
    except PredictionError as error:  # a model that refuses mixtures of rows can serve, and is not explained
        return files, f"no importance: {error.message}"
    return {**files, IMPORTANCE_FILE: msgspec.json.format(msgspec.json.encode(found), indent=1)}, ""


def _outcomes(scored: Scored, label: NDArray[Any] | None) -> pa.Table:
    answers = scored.answers
    columns: dict[str, Any] = {"score": pa.array(answers.score, pa.float64())}
    if answers.label is not None:
        columns["prediction"] = pa.array(answers.label, pa.string())
    if label is not None:
        classes = scored.interface.classes
        columns["label"] = (
            pa.array(label, pa.float64()) if answers.label is None else pa.array([classes[i] for i in label.tolist()])
        )
    return pa.table(columns)


def _golden(
    interface: Interface, predict: Predict, rows: pa.Table, outputs: Sequence[str], background: Background
) -> list[GoldenRow]:
    """Some rows spread over time, and copies of some with all values absent that may be, asked as serving will ask.

    In a personal field the typical value of the background stands in all rows: the file outlives the people's consent.
    """
    places = np.unique(np.linspace(0, rows.num_rows - 1, min(GOLDEN_ROWS, rows.num_rows)).astype(int))
    names = [i.name for i in interface.inputs]
    plain = [{name: _wire(row[name]) for name in names} for row in rows.select(names).take(places).to_pylist()]
    fixed = {f.name for f in interface.contract.fields if not f.nullable}
    same = {
        i.name: _impersonal(i, background.columns[i.name], nullable=i.name not in fixed)
        for i in interface.inputs
        if i.name in background.replaced
    }
    plain = [{**row, **same} for row in plain]
    bare = [{name: row[name] if name in fixed else None for name in names} for row in plain[:GOLDEN_ABSENT]]
    golden: list[GoldenRow] = []
    for part in (plain, bare if bare != plain[:GOLDEN_ABSENT] else []):
        columns = {i.name: _asked(i, part) for i in interface.inputs}
        try:
            raw = in_order(interface, predict(columns), outputs) if part else np.empty(0)
        except PredictionError:
            if part is plain:
                raise
            continue  # the model refuses absent values, and will refuse them when it serves
        golden += [GoldenRow(inputs=row, raw=np.atleast_1d(one).tolist()) for row, one in zip(part, raw, strict=True)]
    return golden


def _impersonal(given: Input, typical: Sequence[Any], *, nullable: bool) -> Any:
    """The typical value of a field as a request carries it; a neutral one where there is none and one has to be."""
    value = typical[0] if typical else None
    if value is None or value == "":
        return None if nullable else "" if given.type == "string" else 0
    if given.type == "string":
        return value
    if given.type == "timestamp":
        return round(value * 86_400_000_000)  # as days since 1970 in the background
    return value if given.type == "number" else bool(value >= 0.5) if given.type == "boolean" else round(value)


def _asked(given: Input, part: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    kind: Any = object if given.type == "string" else np.float64
    return np.asarray(encode([row[given.name] for row in part], given.type), dtype=kind)


def _wire(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_micros(value)
    if isinstance(value, float) and value != value:
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
