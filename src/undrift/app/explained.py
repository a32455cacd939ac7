"""An explanation on the screen: what each input added to the answer, as bars, and the foremost in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["explanation"]

_BAR: Final = 20
_MOST: Final = 12
_SCALES: Final = {
    "probability": "P({label})",
    "log_odds": "log odds of {label}",
    "margin": "margin of {label}",
    "log": "logarithm of the value",
    "value": "the value",
}


def explanation(found: Mapping[str, Any]) -> RenderableType:
    """What `inquiry.why` knows of the explanation; nothing where none was asked for."""
    if "explanation" not in found:
        return Text("")
    told = found["explanation"]
    if told is None:
        return Text(f"not explained: {found['unexplained']}", "yellow")
    scale = _SCALES[told["scale"]].format(label=told["label"])
    head = Text.assemble(
        ("explanation", "bold"), f"  by {told['method']}, adding up to the {scale}".replace("the the", "the")
    )
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    rows.add_row(Text("nothing known", "dim"), Text(""), Text(f"{told['base']:+.4g}", "dim"), Text(""))
    listed = told["contributions"]
    largest = max((abs(each["contribution"]) for each in listed), default=0.0) or 1.0
    for each in listed[:_MOST]:
        size, error = each["contribution"], each["error"]
        bar = Text("█" * round(_BAR * abs(size) / largest), "green" if size > 0 else "red")
        shown = "absent" if each["value"] is None else _plain(each["value"])
        doubt = f" ± {1.96 * error:.2g}" if error else ""
        rows.add_row(Text(each["input"]), Text(shown), Text(f"{size:+.4g}{doubt}"), bar)
    if len(listed) > _MOST:
        rest = sum(each["contribution"] for each in listed[_MOST:])
        rows.add_row(Text(f"{len(listed) - _MOST} others", "dim"), Text(""), Text(f"{rest:+.4g}"), Text(""))
    rows.add_row(Text("answer", "bold"), Text(""), Text(f"{told['output']:+.4g}", "bold"), Text(""))
    parts: list[RenderableType] = [head, rows]
    if len(told["groups"]) > 1:
        sums = ", ".join(f"{name} {value:+.4g}" for name, value in told["groups"].items())
        parts.append(Text(f"  by origin: {sums}", "dim"))
    parts += [Text(f"  {reason}") for reason in told["reasons"]]
    parts += [Text(f"  note: {note}", "yellow") for note in told["notes"]]
    return Group(*parts)


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
