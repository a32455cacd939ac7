"""A new project from a table and a label: checked, inferred, written as files that run as they are.

Everything is decided and rendered before the first file is written, so a refusal leaves nothing behind. What the
columns are is inferred in columns.py; the text of the files stands in templates/.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import jinja2
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from undrift.app import columns, tables
from undrift.app.columns import Outcome
from undrift.app.segments import segments
from undrift.app.terminal import actor
from undrift.data.contract import Contract
from undrift.data.inspect import infer
from undrift.develop import adoption
from undrift.develop.bundle import Task
from undrift.errors import DataError, SettingsError, StateError, UntrustedModelError
from undrift.project import Project, open_project
from undrift.settings import FILE_NAME, load
from undrift.state.artifacts import DirectoryArtifacts

__all__ = ["Scaffolded", "init", "literal", "model_name", "project_for"]

_TEMPLATES: Final = Path(__file__).parent / "templates"
_NOT_OURS: Final = frozenset({".git", ".gitattributes", ".github", ".idea", ".venv", ".vscode", ".DS_Store"})
_HOLDOUT: Final = 0.2
"""Share of rows that training holds out (lifecycle's default)."""


class Scaffolded(msgspec.Struct, frozen=True, kw_only=True):
    """What was written: where, what was inferred by which rule, what was left out, and the next command."""

    folder: Path
    name: str
    task: Task
    reason: str
    data: str
    data_note: str
    roles: list[tuple[str, str]]
    files: list[str]
    notes: list[str]
    next_step: str


def init(
    folder: Path,
    data: Path,
    label: str,
    *,
    time: str = "",
    key: str = "",
    task: Task | None = None,
    leave_out: Sequence[str] = (),
    name: str = "",
) -> Scaffolded:
    """Write a project that trains, serves and watches a model of a table.

    Parameters
    ----------
    folder : new or empty, but for the data file and version control.
    data : CSV or Parquet; a file outside the folder is copied into it.
    leave_out : columns that are not known when predicting.
    name : of the model; made of the folder's name if left out.

    Raises
    ------
    SettingsError : the folder is in use, or an option names no column.
    DataError : the table or its label cannot be learnt from.
    StateError : the files cannot be written.
    """
    folder = folder.absolute()
    model = model_name(name or folder.resolve().name, given=bool(name))
    _check_folder(folder, data)
    table = tables.read(data)
    columns.check_named(table, label=label, time=time, key=key)
    for column in leave_out:
        columns.check_named(table, leave_out=column)
    columns.check_roles(table, label=label, time=time, key=key)
    outcome = columns.outcome(table, label, task)
    roles = {label, time, key}
    fields = [column for column in table.column_names if column != label and column not in leave_out]
    left = columns.unfit(table, [column for column in fields if column not in roles])
    fields = [column for column in fields if column not in left]
    if not set(fields) - roles:
        raise DataError(
            f"no column is left to predict {label!r} from.",
            hint="; ".join(f"{column}: {reason}" for column, reason in left.items()),
        )
    context = tuple(role for role in (time, key) if role)
    contract = infer(table.select(fields), model, context=context, keys=(key,) if key else ())
    notes = tuple(f"{column} is no input: {reason}" for column, reason in left.items())
    return _write(folder, data, table, _Subject(model, outcome, label, contract, time, key, notes, train=True))


def project_for(
    folder: Path, model_file: str, example: Path, rows: pa.Table, *, label: str, name: str, task: Task | None
) -> tuple[Project, Scaffolded | None]:
    """The project an adopted model belongs to: the one the folder is in, or one made there.

    What a new project says of the model (inputs, task, classes) is what the model's file and the example say.

    Raises
    ------
    SettingsError, DataError, ModelError : a project would have to be made and cannot.
    """
    if any((at / FILE_NAME).is_file() for at in (folder.resolve(), *folder.resolve().parents)):
        opened = open_project(folder)
        declared = opened.model(name)
        if label and label != declared.label:
            raise SettingsError(
                f"--label {label!r}, but the model {declared.name!r} of this project has {declared.label!r}."
            )
        return opened, None
    columns.check_named(rows, label=label)
    registered = model_file.startswith("models:/")
    stem = re.split(r"[/@]", model_file.removeprefix("models:/"))[0] if registered else Path(model_file).stem
    model = model_name(name or stem, given=bool(name))
    settings = load(None)
    with tempfile.TemporaryDirectory() as scratch, Project(settings) as nowhere:
        try:
            interface = adoption.adopt(
                model_file,
                rows,
                name=model,
                artifacts=DirectoryArtifacts(scratch),
                trust=settings.trust,
                label=label,
                task=task,
                registry=nowhere.registry if registered else None,
            ).manifest.interface
        except UntrustedModelError as error:
            refused = re.search(r"is in the format '(\w+)'", error.message)
            formats = ",".join((*settings.trust.formats, refused[1] if refused else ""))
            hint = f"If you trust where it comes from: UNDRIFT_TRUST__FORMATS={formats} undrift adopt ..."
            raise UntrustedModelError(error.message, hint=hint if refused else error.hint) from error
    outcome = Outcome(interface.task, interface.classes, "as you said with --task" if task else "the model says so")
    trusted = settings.trust.formats if "trust.formats" in settings.origins else ()
    subject = _Subject(model, outcome, interface.label, interface.contract, "", "", (), train=False, trusted=trusted)
    made = _write(folder.absolute(), example, rows, subject)
    return open_project(folder), made


def model_name(text: str, *, given: bool) -> str:
    """A name that URLs and tables can bear, made of a folder's or file's; one that was given must be so already."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if given and name != text:
        raise SettingsError(
            f"--name {text!r} must be lower-case letters, digits and underscores.",
            hint=f"Perhaps {name!r}?" if name else "",
        )
    if not name:
        return "model"
    return name if not name[0].isdigit() else f"model_{name}"


def _check_folder(folder: Path, data: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file; a project needs a folder.")
    if not folder.exists():
        return
    ours = data.resolve()
    strangers = [
        entry.name
        for entry in sorted(folder.iterdir())
        if entry.name not in _NOT_OURS and entry.resolve() != ours and entry.resolve() not in ours.parents
    ]
    if strangers:
        raise SettingsError(
            f"{folder} is not empty: it holds {', '.join(strangers[:5])}{' ...' if len(strangers) > 5 else ''}.",
            hint="Name a new folder; the data file itself may be in it already.",
        )


class _Subject(NamedTuple):
    """What a project is about.

    ``train``: it makes its versions itself. ``trusted``: the formats its owner allowed to be opened, if not the usual.
    """

    model: str
    outcome: Outcome
    label: str
    contract: Contract
    time: str
    key: str
    notes: tuple[str, ...]
    train: bool
    trusted: tuple[str, ...] = ()


def _write(folder: Path, data: Path, table: pa.Table, subject: _Subject) -> Scaffolded:
    model, outcome, label, contract, time, key, notes, train, trusted = subject
    fields = [field.name for field in contract.fields]
    inputs = [name for name in fields if name not in (time, key)]
    inside = folder.resolve() in data.resolve().parents
    path = data.resolve().relative_to(folder.resolve()).as_posix() if inside else f"data/{data.name}"
    example = columns.example_row(table, fields)
    known = {
        "name": model,
        "outcome": outcome,
        "label": label,
        "time": time,
        "key": key,
        "data": path,
        "fields": fields,
        "key_is_text": bool(key) and pa.types.is_string(table.schema.field(key).type),
        "margins": _margins(table, label, outcome),
        "trusted": trusted,
        "labelled": label in table.column_names,
        "segments": segments(table, inputs, label),
        "owner": actor("").removeprefix("person:"),
        "minimum_rows": min(100, max(10, int(table.num_rows * _HOLDOUT * 0.75))),
        "train": train,
        "labels": shlex.quote(json.dumps({"labels": [{"id": "THE-ID", "label": _some_label(table, label, outcome)}]})),
        "rows": table.num_rows,
        "inputs": len(inputs),
    }
    written = _render(known, contract, example)
    taken = [name for name in written if (folder / name).exists()]
    if taken:
        raise SettingsError(f"{folder} holds {', '.join(taken)} already, which would be overwritten.")
    _put(folder, written, None if inside else (data, path))
    return Scaffolded(
        folder=folder,
        name=model,
        task=outcome.task,
        reason=outcome.reason,
        data=path,
        data_note=f"{path} ({'where it is' if inside else f'a copy of {data}'}), {table.num_rows} rows",
        roles=_roles(label, outcome, time, key, len(inputs)),
        files=[*written, *([] if inside else [path])],
        notes=list(notes),
        next_step=_next_step(folder) if train else f"undrift promote {model}",
    )


def _roles(label: str, outcome: Outcome, time: str, key: str, inputs: int) -> list[tuple[str, str]]:
    classes = ""
    if outcome.classes:
        few = ", ".join(outcome.classes[:8]) + (" ..." if len(outcome.classes) > 8 else "")
        classes = f" ({few})" if outcome.task != "binary" else f" (negative, positive: {few})"
    found = [("label", label + classes), ("inputs", f"{inputs} columns")]
    return [*found, *([("time", time)] if time else []), *([("key", key)] if key else [])]


def _next_step(folder: Path) -> str:
    here = os.path.relpath(folder)
    return ("" if here == "." else f"cd {shlex.quote(here)} && ") + "undrift train"


def _margins(table: pa.Table, label: str, outcome: Outcome) -> dict[str, Any]:
    """What a candidate may cost: a tenth of the label's spread for a number; for classes a tenth of what the answer
    that is right most often gets wrong, at most five rows in a hundred.
    """
    if outcome.task != "regression":
        counts = pc.value_counts(table[label].drop_null()).field("counts") if label in table.column_names else []
        wrong = 1 - pc.max(counts).as_py() / pc.sum(counts).as_py() if len(counts) else 0.5
        return {"shift": 0.15, "loss": "error", "margin": min(0.05, float(f"{wrong / 10:.2g}"))}
    spread = pc.stddev(table[label]).as_py() if label in table.column_names else None
    tenth = float(f"{(spread or 1.0) / 10:.2g}")
    return {"shift": tenth, "loss": "absolute_error", "margin": tenth}


def _some_label(table: pa.Table, label: str, outcome: Outcome) -> Any:
    """An outcome as a label request carries it: text for classes, a number for regression."""
    if outcome.classes:
        return outcome.classes[-1]
    if outcome.task == "regression" and label in table.column_names:
        return float(table[label].drop_null()[0].as_py())
    return 1.0 if outcome.task == "regression" else "1"


def _render(known: Mapping[str, Any], contract: Contract, example: Mapping[str, Any]) -> dict[str, str]:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Python, TOML and Markdown are written, no HTML
    )
    environment.filters["literal"] = literal
    environment.filters["mapping"] = lambda held: (
        "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in held.items()) + "}"
    )
    environment.filters["pylist"] = lambda names: "[" + ", ".join(literal(name) for name in names) + "]"
    names = [
        FILE_NAME,
        "declarations.py",
        *(["train.py"] if known["train"] else []),
        "traffic.py",
        "README.md",
        ".gitignore",
    ]
    written = {name: environment.get_template(f"{name.lstrip('.')}.j2").render(known) for name in names}
    written["contract.yaml"] = contract.to_odcs()
    written["example.json"] = json.dumps({"instances": [example]}, indent=2, ensure_ascii=False) + "\n"
    return written


def literal(value: Any) -> str:
    """A Python (and TOML) literal in double quotes; a tuple keeps its last comma."""
    if isinstance(value, list | tuple):
        inner = ", ".join(literal(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return json.dumps(value, ensure_ascii=False)


def _put(folder: Path, written: Mapping[str, str], copy: tuple[Path, str] | None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if copy is not None:
            target = folder / copy[1]
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(copy[0], target)
        for name, text in written.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StateError(f"the project cannot be written to {folder}: {error.strerror or error}.") from error
