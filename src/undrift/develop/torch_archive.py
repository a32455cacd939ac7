"""What a .pt2 file may hold: tensors as plain bytes, and a graph of PyTorch's own operators. Nothing here loads one.

``torch.export.load`` unpickles what an archive marks as pickled, tries again without its safe mode when that refuses,
evaluates expressions, and calls any function of PyTorch that a graph names. So an archive is read first, and anything
beyond what ``torch.export.save`` writes for a network of tensors is refused by name.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from undrift.errors import CorruptModelError, UntrustedModelError
from undrift.plugins import resolve_path

__all__ = ["check_archive"]

_FILE: Final = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)"
    r"|sample_inputs/model\.pt))"
)
_TARGET: Final = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_(int|float|max|min|not)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge)"
)
_NO_FILES: Final = re.compile(r"file|print|set_data|rename|record_stream")
"""Operators of ATen that do more than compute."""
_SYMBOL: Final = re.compile(
    r"(Symbol\('[su]\d+'(, \w+=True)*\)|(Integer|Rational|Mul|Add|Pow|Max|Min|FloorDiv|CleanDiv|Mod|PythonMod)\(|\)|, "
    r"|-?\d+|-?int_oo)*"
)
"""Arithmetic on sizes, as PyTorch writes it down."""
_NAME: Final = re.compile(r"[\w.]*")
"""Names become parameters of a function that is written and compiled when an archive is opened."""
_NO_NAMES: Final = ("metadata", "in_spec", "out_spec", "expr_str", "target", "torch_version", "verifiers", "as_string")
_MOST: Final = 64 * 1024 * 1024  # bytes of the graph's text


def check_archive(content: bytes, what: str) -> None:
    """Refuse an exported program that holds more than tensors and operators.

    Raises
    ------
    CorruptModelError : it is no exported program.
    UntrustedModelError : names what it holds beyond that.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        files = {name.partition("/")[2]: name for name in archive.namelist()}
        if "models/model.json" not in files or archive.getinfo(files["models/model.json"]).file_size > _MOST:
            raise CorruptModelError(f"{what} is no exported program (torch.export.save): it has no graph.")
        program = msgspec.json.decode(archive.read(files["models/model.json"]))
        payloads = [_payloads(archive, files, f"data/{kind}/model_{kind}_config.json") for kind in _KINDS]
        samples = archive.read(files["data/sample_inputs/model.pt"]) if "data/sample_inputs/model.pt" in files else b""
    except (zipfile.BadZipFile, KeyError, msgspec.MsgspecError, AttributeError, ValueError) as error:
        raise CorruptModelError(f"{what} cannot be read as an exported program: {error}.") from error
    strange = [f"the file {name!r}" for name in files if not _FILE.fullmatch(name)]
    if len({name.partition("/")[0] for name in archive.namelist()}) != 1 or len(files) != len(archive.namelist()):
        strange.append("files under several names")
    strange += [f"the pickled {name}" for payload in payloads for name, said in payload.items() if _pickled(said)]
    if program.get("guards_code"):
        strange.append("code of guards")
    strange += sorted(set(_calls(program.get("graph_module", {}))))
    strange += [f"the expression {text!r}" for text in _expressions(program) if not _SYMBOL.fullmatch(text)]
    strange += [f"the name {text[:40]!r}" for text in _names(program) if not _NAME.fullmatch(text)]
    if samples and not _only_tensors(samples):
        strange.append("pickled sample inputs that are no tensors")
    if strange:
        raise UntrustedModelError(
            f"{what} holds more than tensors and operators, which opening it would run: {', '.join(strange[:5])}.",
            hint="Export the module again with torch.export.save, or adopt its ONNX export.",
        )


_KINDS: Final = ("weights", "constants")


def _payloads(archive: zipfile.ZipFile, files: Mapping[str, str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(archive.read(files[name]))["config"]
    return found


def _pickled(said: Any) -> bool:
    plain = isinstance(said, dict) and said.get("use_pickle") is False
    return not plain or not re.fullmatch(r"(weight|tensor)_\d+", str(said.get("path_name")))


def _calls(part: Any) -> Iterator[str]:
    """The targets of nodes, in this graph and those inside it, that are no computation."""
    if isinstance(part, dict):
        target = part.get("target")
        if "target" in part and "inputs" in part and "outputs" in part:
            known = isinstance(target, str) and _TARGET.fullmatch(target) and not _NO_FILES.search(target)
            if not known:
                yield f"a call of {target!r}"
        for value in part.values():
            yield from _calls(value)
    elif isinstance(part, list):
        for value in part:
            yield from _calls(value)


def _expressions(part: Any) -> Iterator[str]:
    """What would be evaluated: the expressions of sizes."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "expr_str":
                yield str(value)
            yield from _expressions(value)
    elif isinstance(part, list):
        for value in part:
            yield from _expressions(value)


def _names(part: Any) -> Iterator[str]:
    """All other text of a program; what only describes it is never evaluated and left out."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name not in _NO_NAMES:
                yield name
                yield from _names(value)
    elif isinstance(part, list):
        for value in part:
            yield from _names(value)
    elif isinstance(part, str):
        yield part


def _only_tensors(samples: bytes) -> bool:
    load = resolve_path("torch:load", wanted_for="opening a PyTorch model", extra="torch")
    try:
        load(io.BytesIO(samples), weights_only=True)
    except Exception:  # noqa: BLE001  whatever its unpickler refuses would be opened without it afterwards
        return False
    return True
