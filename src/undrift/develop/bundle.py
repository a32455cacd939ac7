"""The bundle: everything a revision needs to run, in one content-addressed directory.

Manifest, model files, contract, reference profile, golden requests and the code of transforms travel together, so a
rollback takes them all back together. Writing and reading stand here; training and serving both use them. How values
are laid out for a model stands in rows.py; nothing here opens a model.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from undrift.data.contract import Contract, FieldType
from undrift.data.features import FeatureView, Transform
from undrift.errors import CorruptModelError, DeclarationError, ModelError
from undrift.ids import content_hash, hash_file

__all__ = [
    "CONTRACT_FILE",
    "FORMAT_VERSION",
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "MODEL_FILES",
    "PROFILE_FILE",
    "Fed",
    "GoldenRow",
    "Input",
    "Interface",
    "Manifest",
    "Task",
    "load_functions",
    "model_path",
    "read_golden",
    "read_manifest",
    "read_profile",
    "revision_id",
    "write_bundle",
]

Task = Literal["binary", "multiclass", "regression"]
Fed = Literal["single", "double", "frame"]

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
CONTRACT_FILE: Final = "contract.yaml"
PROFILE_FILE: Final = "profile.json"
GOLDEN_FILE: Final = "golden.json"
MODEL_FILES: Final[Mapping[str, str]] = {
    "onnx": "model.onnx",
    "skops": "model.skops",
    "lightgbm": "model.lightgbm.txt",
    "xgboost": "model.xgboost.ubj",
    "pickle": "model.pickle",
    "catboost": "model.catboost.cbm",
    "torch": "model.torch.pt2",
    "keras": "model.keras",
    "pyfunc": "model.pyfunc.zip",
    "python": "model.python.py",
    "upstream": "model.upstream.json",
}


class Input(msgspec.Struct, frozen=True):
    """One input of the model itself, in order."""

    name: str
    type: FieldType


class Interface(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model is asked, what it is fed, and what it answers.

    ``key``: the request field that names a prediction (a fresh id if empty). ``unit``: the field whose value decides
    the variant (the key if empty). ``time``: the field with the event time (arrival time if empty). ``bands``,
    ``rare``: how segments are cut and put together, see segments.py. ``classes``: the labels of a classifier, as
    strings, negative first. ``threshold``: score at or above which the binary answer is the positive class.
    """

    model: str
    task: Task
    contract: Contract
    label: str
    key: str = ""
    unit: str = ""
    time: str = ""
    views: tuple[FeatureView, ...] = ()
    transforms: tuple[Transform, ...] = ()
    segments: tuple[str, ...] = ()
    bands: dict[str, tuple[float, ...]] = {}
    rare: dict[str, tuple[str, ...]] = {}
    classes: tuple[str, ...] = ()
    threshold: float = 0.5

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The model's inputs in order: feature fields of the contract, then of views, then of transforms."""
        skip = {self.key, self.time, self.label}
        own = [Input(f.name, f.type) for f in self.contract.fields if f.role == "feature" and f.name not in skip]
        looked_up = [Input(f.name, f.type) for view in self.views for f in view.outputs]
        computed = [Input(f.name, f.type) for transform in self.transforms for f in transform.outputs]
        return (*own, *looked_up, *computed)

    @property
    def texts(self) -> tuple[str, ...]:
        """The inputs that are free text and captured."""
        names = {given.name for given in self.inputs}
        return tuple(f.name for f in self.contract.fields if f.text and f.name in names and not f.personal)

    @property
    def personal(self) -> frozenset[str]:
        """The request fields whose values are people's own: not captured, and not kept in bundles."""
        return frozenset(field.name for field in self.contract.fields if field.personal)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """manifest.json of a bundle.

    ``format`` names the file that serves (``onnx``, ``skops``, ...), ``native`` the format of the model as trained.
    ``compiled`` tells whether the compilation held its parity check, with the figures, or why not.
    ``files`` maps each other file of the bundle to its SHA-256.
    ``fed`` says how a native model takes its rows, ``outputs`` which class each of its probability columns means
    (empty: the interface's classes in order). Both are explained in rows.py.
    """

    interface: Interface
    format: str
    native: str
    files: dict[str, str]
    compiled: dict[str, Any] = {}
    trained: dict[str, Any] = {}
    fed: Fed = "single"
    outputs: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION


class GoldenRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request whose answer is known: the values of all inputs, and what the serving format must answer.

    ``raw`` is the model's own output: a probability per class in the interface's order, or one predicted value.
    """

    inputs: dict[str, Any]
    raw: list[float]


def revision_id(digest: str) -> str:
    """The name of what a variant runs: the first twelve digits of the bundle's hash."""
    return f"r-{digest[:12]}"


def write_bundle(
    folder: Path,
    *,
    interface: Interface,
    format: str,  # noqa: A002  the field's name in the manifest
    native: str,
    models: Mapping[str, bytes],
    profile: str,
    golden: Sequence[GoldenRow],
    code: Mapping[str, str] | None = None,
    compiled: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
    fed: Fed = "single",
    outputs: Sequence[str] = (),
    beside: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write all files of a bundle into an empty folder, the manifest last.

    Parameters
    ----------
    models : file content by format, one of them the serving ``format``.
    profile : the reference profile as JSON text.
    code : source text by module name, for every module that the interface's transforms name.
    beside : further files by name, as importance.py makes them.

    Raises
    ------
    ModelError : the serving format has no file.
    DeclarationError : code of a transform is missing, does not parse, or imports beyond the standard library.
    """
    if format not in models:
        raise ModelError(f"a bundle that serves {format!r} needs that file, but only {sorted(models)} were given.")
    _check_code(interface.transforms, code or {})
    parts: dict[str, bytes] = {
        CONTRACT_FILE: interface.contract.to_odcs().encode(),
        PROFILE_FILE: profile.encode(),
        GOLDEN_FILE: msgspec.json.encode(list(golden)),
        **{MODEL_FILES[name]: content for name, content in models.items()},
        **{f"code/{name}.py": text.encode() for name, text in (code or {}).items()},
        **(beside or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    manifest = Manifest(
        interface=interface,
        format=format,
        native=native,
        files={name: content_hash(content) for name, content in sorted(parts.items())},
        compiled=dict(compiled or {}),
        trained=dict(trained or {}),
        fed=fed,
        outputs=tuple(outputs),
    )
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return manifest


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """The manifest of a bundle, after every file it lists was found with the hash it states.

    Raises
    ------
    CorruptModelError : the manifest is missing or unreadable, or a file is missing or was changed; names the file.
    ModelError : the bundle was written by another version of undrift that this one cannot read.
    """
    file = folder / MANIFEST_FILE
    try:
        raw: dict[str, Any] = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise CorruptModelError(f"{file} cannot be read as the manifest of a bundle: {error}.") from error
    version = raw.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{file} has format_version {version!r}; this undrift reads {FORMAT_VERSION}.",
            hint="Serve it with the undrift that wrote it, or train or adopt the model again with this one.",
        )
    try:
        manifest = msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise CorruptModelError(f"{file} is no manifest of a bundle: {error}.") from error
    for name, expected in manifest.files.items() if verify else ():
        _verify(folder, name, expected)
    return manifest


def model_path(folder: Path, manifest: Manifest) -> Path:
    """The file that serves.

    Raises
    ------
    CorruptModelError : the manifest names a format without a file.
    """
    name = MODEL_FILES.get(manifest.format, "")
    if name not in manifest.files:
        raise CorruptModelError(f"{folder / MANIFEST_FILE} says it serves {manifest.format!r} but lists no such file.")
    return folder / name


def read_golden(folder: Path) -> list[GoldenRow]:
    """The golden rows of a bundle.

    Raises
    ------
    CorruptModelError : the file cannot be read.
    """
    try:
        return msgspec.json.decode((folder / GOLDEN_FILE).read_bytes(), type=list[GoldenRow])
    except (OSError, msgspec.MsgspecError) as error:
        raise CorruptModelError(f"{folder / GOLDEN_FILE} cannot be read: {error}.") from error


def read_profile(folder: Path) -> str:
    """The reference profile of a bundle, as JSON text for ``data.profile.Profile``.

    Raises
    ------
    CorruptModelError : the file cannot be read.
    """
    try:
        return (folder / PROFILE_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptModelError(f"{folder / PROFILE_FILE} cannot be read: {error}.") from error


def load_functions(folder: Path, transforms: Sequence[Transform]) -> dict[str, Callable[..., Any]]:
    """The functions of transforms by the transform's name, loaded from the code in the bundle and from nowhere else.

    Two bundles may hold different code under one module name: each is loaded under a name made of its content, so
    neither sees the other, and ``sys.path`` stays as it is.

    Raises
    ------
    CorruptModelError : the code is missing, raises when it is loaded, or has no such function.
    """
    functions: dict[str, Callable[..., Any]] = {}
    for transform in transforms:
        module_name, _, attribute = transform.function.partition(":")
        path = folder / "code" / f"{module_name}.py"
        try:
            module = _load_module(path, module_name)
        except Exception as error:
            raise CorruptModelError(
                f"{path}, the code of transform {transform.name!r}, cannot be loaded: {type(error).__name__}: {error}."
            ) from error
        function = getattr(module, attribute, None)
        if not callable(function):
            raise CorruptModelError(f"{path} has no function {attribute!r}, which transform {transform.name!r} names.")
        functions[transform.name] = function
    return functions


def _load_module(path: Path, name: str) -> Any:
    unique = f"_undrift_bundle_{name}_{hash_file(path)[:16]}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses look their module up here
    try:
        # from the text: a bundle's folder is read-only, and a stale .pyc must not win over what was hashed
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


def _verify(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise CorruptModelError(f"{folder / MANIFEST_FILE} lists {name!r}, which lies outside the bundle.")
    try:
        found = hash_file(path)
    except OSError as error:
        raise CorruptModelError(f"{path} of the bundle cannot be read: {error}.") from error
    if found != expected:
        raise CorruptModelError(
            f"{path} is not the file that was registered: its SHA-256 is {found[:12]}..., the manifest says "
            f"{expected[:12]}...",
            hint="Restore the file from a copy, or train or adopt the model again; it is not served like this.",
        )


def _check_code(transforms: Sequence[Transform], code: Mapping[str, str]) -> None:
    for transform in transforms:
        module, _, attribute = transform.function.partition(":")
        if module not in code:
            raise DeclarationError(
                f"transform {transform.name!r} names {transform.function!r}, but the code of {module!r} was not given."
            )
        try:
            tree = ast.parse(code[module], filename=f"{module}.py")
        except SyntaxError as error:
            raise DeclarationError(f"{module}.py of transform {transform.name!r} does not parse: {error}.") from error
        if attribute not in {getattr(node, "name", "") for node in tree.body}:
            raise DeclarationError(
                f"{module}.py has no function {attribute!r}, which transform {transform.name!r} names."
            )
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
            foreign = [n for n in names if n.partition(".")[0] not in sys.stdlib_module_names]
            if foreign:
                raise DeclarationError(
                    f"{module}.py line {getattr(node, 'lineno', 0)} imports {foreign[0]!r}: the module of a transform "
                    "travels with the bundle, so it may import only the standard library.",
                    hint="Move the function into a file of its own.",
                )
