"""The Open Data Contract Standard: YAML or JSON of v3.0 to v3.2 in, v3.1 out.

Translates between documents and the plain values of a contract, and says for each thing it cannot take on which line
and path it stands. It knows nothing of Contract itself, which wraps it.
Source: https://bitol-io.github.io/open-data-contract-standard/v3.1.0/
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

from undrift.errors import ContractError
from undrift.ids import from_micros, to_micros

__all__ = ["Read", "read", "write"]

_WRITTEN: Final = "v3.1.0"
_TYPES: Final = {
    "string": "string", "integer": "integer", "number": "number", "boolean": "boolean", "timestamp": "timestamp",
    "date": "timestamp",
}  # fmt: skip
# the physical type decides where no logical one is given, as the standard allows; the first that fits
_PHYSICAL: Final = (
    ("timestamp", "timestamp"), ("date", "timestamp"), ("bool", "boolean"), ("bigint", "integer"),
    ("smallint", "integer"), ("tinyint", "integer"), ("int", "integer"), ("long", "integer"), ("float", "number"),
    ("double", "number"), ("real", "number"), ("decimal", "number"), ("numeric", "number"), ("number", "number"),
    ("varchar", "string"), ("char", "string"), ("string", "string"), ("text", "string"), ("uuid", "string"),
)  # fmt: skip
_ORDERED: Final = ("integer", "number", "timestamp")
_FLAT: Final = "A contract has columns of string, integer, number, boolean, timestamp or date: flatten the others."


class Read(NamedTuple):
    """What one table of a document says.

    ``values``: name, version, unknown, description. ``fields``: the values of each field, and where it stands, in
    words. ``left``: paths of the rules on rows that a contract has no word for (patterns, lengths, SQL, row counts).
    """

    values: dict[str, Any]
    fields: list[tuple[dict[str, Any], str]]
    left: tuple[str, ...]


def read(text: str, table: str = "") -> Read:
    """Read one table of an ODCS document.

    Parameters
    ----------
    text : YAML or JSON.
    table : name of the schema object; may be left out where there is one only.

    Raises
    ------
    ContractError : no ODCS v3, several tables and none named, a type that no column can have. Says line and path.
    """
    return _Document(text).table(table)


def write(contract: Mapping[str, Any]) -> str:
    """A contract, as plain values, as an ODCS document.

    What the standard has no word for (role, unit, what a violation does) stands in custom properties.
    """
    import yaml

    document: dict[str, Any] = {
        "apiVersion": _WRITTEN,
        "kind": "DataContract",
        "id": contract["name"],
        "name": contract["name"],
        "version": contract.get("version", "1.0.0"),
        "status": "active",
    }
    if contract.get("description"):
        document["description"] = {"purpose": contract["description"]}
    properties = [_property(field) for field in contract["fields"]]
    document["schema"] = [{"name": contract["name"], "logicalType": "object", "properties": properties}]
    document["customProperties"] = [{"property": "unknownColumns", "value": contract.get("unknown", "reject")}]
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))


def _property(field: Mapping[str, Any]) -> dict[str, Any]:
    kind = field["type"]
    found: dict[str, Any] = {"name": field["name"], "logicalType": kind, "required": not field.get("nullable", False)}
    if field.get("description"):
        found["description"] = field["description"]
    options = {name: _bound(kind, field[name]) for name in ("minimum", "maximum") if field.get(name) is not None}
    if options:
        found["logicalTypeOptions"] = options
    categories = field.get("categories")
    if categories is not None:
        values = [int(c) for c in categories] if kind == "integer" else list(categories)
        rule = {"type": "library", "metric": "invalidValues", "arguments": {"validValues": values}, "mustBe": 0}
        found["quality"] = [rule]
    own = {"role": "role", "unit": "unit", "on_violation": "onViolation", "personal": "personal",
           "text": "freeText"}  # fmt: skip
    custom = [{"property": word, "value": field[name]} for name, word in own.items() if field.get(name)]
    if custom:
        found["customProperties"] = custom
    return found


def _bound(kind: str, bound: float) -> float | int | str:
    if kind == "timestamp":
        return from_micros(int(bound)).isoformat()
    return int(bound) if float(bound).is_integer() and abs(bound) < 1e15 else float(bound)


class _Document:
    """An ODCS document with the line of each of its parts."""

    def __init__(self, text: str) -> None:
        import yaml

        self.lines: dict[str, int] = {}
        self.left: list[str] = []
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            self.content: Any = loader.construct_document(node) if node is not None else None
        except (yaml.YAMLError, ValueError) as error:
            raise ContractError(f"the document is no valid YAML: {' '.join(str(error).split())}.") from error
        finally:
            loader.dispose()
        self._place(node, "$")

    def _place(self, node: Any, path: str) -> None:
        """Note the line of a node and of all below it."""
        if node is None or path.count(".") > 12:
            return
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node.value, list):
            for place, part in enumerate(node.value):
                if isinstance(part, tuple):
                    self._place(part[1], f"{path}.{part[0].value}")
                else:
                    self._place(part, f"{path}[{place}]")

    def wrong(self, path: str, message: str, hint: str = "") -> ContractError:
        """An error that says where: the line of the path, or of the nearest part above it that is there."""
        return ContractError(f"{message} - {self.where(path)}.", hint=hint)

    def where(self, path: str) -> str:
        near = path
        while near not in self.lines and near != "$":
            near = near[: max(near.rfind("."), near.rfind("["), 1)]
        return f"at `{path}`, line {self.lines.get(near, 1)}"

    def mapping(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(path, f"expected keys and values, got {type(value).__name__}")
        return value

    def sequence(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.wrong(path, f"expected a list, got {type(value).__name__}")
        return value

    def table(self, table: str) -> Read:
        top = self.mapping(self.content, "$")
        kind, version = top.get("kind"), str(top.get("apiVersion", ""))
        if kind != "DataContract" or not version.startswith("v3."):
            expected = "expected an ODCS document (kind DataContract, apiVersion v3.x)"
            raise self.wrong("$.apiVersion", f"{expected}, got kind {kind!r}, apiVersion {version!r}")
        objects = {}
        for place, part in enumerate(self.sequence(top.get("schema"), "$.schema")):
            path = f"$.schema[{place}]"
            objects[str(self.mapping(part, path).get("name", place))] = (part, path)
        names = ", ".join(objects) or "none"
        if len(objects) != 1 and not table:
            raise self.wrong("$.schema", f"expected one table, got {len(objects)} ({names}): say which")
        name = table or next(iter(objects))
        if name not in objects:
            raise self.wrong("$.schema", f"there is no table {name!r}, only {names}")
        part, path = objects[name]
        self.left += [f"{path}.quality[{i}]" for i in range(len(part.get("quality") or ()))]
        purpose = top.get("description") or part.get("description") or ""
        values = {
            "name": name,
            "version": str(top.get("version", "1.0.0")),
            "unknown": "ignore" if _custom(top).get("unknownColumns") == "ignore" else "reject",
            "description": str(purpose.get("purpose") or "") if isinstance(purpose, dict) else str(purpose),
        }
        fields = []
        for place, each in enumerate(self.sequence(part.get("properties"), f"{path}.properties")):
            where = f"{path}.properties[{place}]"
            fields.append((self.field(self.mapping(each, where), where), self.where(where)))
        return Read(values, fields, tuple(self.left))

    def field(self, part: dict[str, Any], path: str) -> dict[str, Any]:
        if not part.get("name"):
            raise self.wrong(f"{path}.name", "a property has no name")
        kind = self.type_of(part, path)
        low, high = self.bounds(part, kind, path)
        categories, filled = self.values(part, path)
        own = _custom(part)
        if part.get("unique"):
            self.left.append(f"{path}.unique")
        return {
            "name": str(part["name"]),
            "type": kind,
            "role": own.get("role", "feature"),
            "nullable": not (part.get("required") or part.get("primaryKey") or filled),
            "minimum": low,
            "maximum": high,
            "categories": categories,
            "unit": own.get("unit", ""),
            "personal": own.get("personal", False),
            "text": own.get("freeText", False),
            "on_violation": own.get("onViolation", "flag"),
            "description": str(part.get("description") or ""),
        }

    def type_of(self, part: dict[str, Any], path: str) -> str:
        logical = part.get("logicalType")
        if logical is not None:
            if logical not in _TYPES:
                raise self.wrong(f"{path}.logicalType", f"a column of {logical!r} cannot be checked here", _FLAT)
            return _TYPES[logical]
        physical = str(part.get("physicalType", "")).lower()
        for start, kind in _PHYSICAL:
            if physical.startswith(start):
                return kind
        raise self.wrong(path, f"neither logicalType nor a known physicalType ({physical or 'none'})", _FLAT)

    def bounds(self, part: dict[str, Any], kind: str, path: str) -> tuple[float | None, float | None]:
        options = self.mapping(part.get("logicalTypeOptions") or {}, f"{path}.logicalTypeOptions")
        found: dict[str, float | None] = {"Minimum": None, "Maximum": None}
        for name, value in options.items():
            where = f"{path}.logicalTypeOptions.{name}"
            side = name.removeprefix("exclusive").capitalize()
            if side not in found or kind not in _ORDERED:
                if name not in ("format", "timezone", "defaultTimezone"):  # how it is written, no rule on its value
                    self.left.append(where)
                continue
            bound = self.number(value, kind, where)
            if name.startswith("exclusive"):
                away = math.inf if side == "Minimum" else -math.inf
                step = math.copysign(1.0, away)
                bound = math.nextafter(bound, away) if kind == "number" else bound + step
            found[side] = bound
        return found["Minimum"], found["Maximum"]

    def number(self, value: Any, kind: str, path: str) -> float:
        if kind == "timestamp":
            try:
                at = value if isinstance(value, date) else datetime.fromisoformat(str(value))
            except ValueError as error:
                raise self.wrong(path, f"expected a time in ISO 8601, got {value!r}") from error
            moment = at if isinstance(at, datetime) else datetime(at.year, at.month, at.day, tzinfo=UTC)
            return float(to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC)))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(path, f"expected a number, got {value!r}")
        return float(value)

    def values(self, part: dict[str, Any], path: str) -> tuple[tuple[str, ...] | None, bool]:
        """The closed set of values, and whether a quality rule says that none is missing."""
        found: list[Any] | None = None
        filled = False
        if "enum" in part:
            entries = self.sequence(part["enum"], f"{path}.enum")
            found = [self.mapping(e, f"{path}.enum[{i}]").get("value") for i, e in enumerate(entries)]
        for i, rule in enumerate(part.get("quality") or ()):
            where = f"{path}.quality[{i}]"
            metric = self.mapping(rule, where).get("metric", rule.get("rule"))
            valid = (rule.get("arguments") or {}).get("validValues", rule.get("validValues"))
            if metric in ("nullValues", "missingValues") and rule.get("mustBe") == 0:
                filled = True
            elif metric == "invalidValues" and rule.get("mustBe") == 0 and isinstance(valid, list):
                found = valid
            else:
                self.left.append(where)
        if found is None:
            return None, filled
        for value in found:
            if isinstance(value, bool):
                hint = "YAML reads an unquoted yes, no, on or off as a boolean: put it in quotes."
                raise self.wrong(path, f"the value {value} is no text", hint)
        return tuple(str(value) for value in found if value is not None), filled


def _custom(part: dict[str, Any]) -> dict[str, Any]:
    entries = part.get("customProperties") or ()
    return {e["property"]: e.get("value") for e in entries if isinstance(e, dict) and "property" in e}
