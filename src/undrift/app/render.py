"""How results look in a terminal: pure functions from what the verbs return to what rich can print.

Nothing is decided or looked up here. Text that came from outside is never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from undrift.app.explained import explanation
from undrift.event import Event
from undrift.finding import Report, Verdict
from undrift.finding import Table as Figures

if TYPE_CHECKING:
    from undrift.app.init import Scaffolded
    from undrift.lifecycle import Trained

__all__ = [
    "adopted",
    "applied",
    "columns",
    "config",
    "crowned",
    "gate",
    "history",
    "inspection",
    "minute",
    "pairs",
    "plain_report",
    "plain_trained",
    "plan",
    "report",
    "scaffolded",
    "status",
    "title",
    "trained",
    "why",
]

COLOURS: Final = {
    Verdict.PASS: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.ERROR: "magenta",
    Verdict.FAIL: "red",
}


def columns(*headings: str) -> Table:
    """An empty table without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("at", "", "verdict"))
    return table


def pairs(rows: Iterable[tuple[str, Any]], indent: int = 2) -> Table:
    """Names and values beneath each other."""
    table = Table(box=None, show_header=False, pad_edge=True, show_edge=False, padding=(0, 2, 0, indent))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(_words(value)))
    return table


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_words(v) for v in value) or "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)


def minute(at: datetime | str | None) -> str:
    """A moment to the second, without its zone (UTC); a dash for none."""
    if at is None:
        return "-"
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def title(*parts: str) -> Text:
    """A heading: the first part bold, the others beside it."""
    return Text.assemble(*((p, "bold") if i == 0 else (f"  {p}", "dim") for i, p in enumerate(parts) if p))


# -- reports ----------------------------------------------------------------------------------------------------------


def plain_report(found: Report) -> dict[str, Any]:
    """A report as JSON values, verdicts by name."""
    plain: dict[str, Any] = msgspec.to_builtins(found)
    plain["verdict"] = found.verdict.name
    plain["findings"] = [
        {**entry, "verdict": finding.verdict.name}
        for entry, finding in zip(plain["findings"], found.findings, strict=True)
    ]
    return plain


def report(found: Report) -> RenderableType:
    """The title with the verdict, then the findings, the worst first."""
    rows = columns("verdict", "segment", "why")
    for finding in sorted(found.findings, key=lambda f: -f.verdict):
        where = "" if finding.measurement.where == "all" else finding.measurement.where
        rows.add_row(Text(finding.verdict.name, COLOURS[finding.verdict]), Text(where), Text(finding.why))
    tables = [part for table in found.tables for part in (Text(), Text(table.title, "bold"), _figures(table))]
    return Group(_head(found), *([rows] if found.findings else []), *tables)


def _figures(table: Figures) -> RenderableType:
    rows = columns(*table.columns)
    for row in table.rows:
        rows.add_row(*(Text(_words(value)) for value in row))
    return rows


def gate(found: Report) -> RenderableType:
    """How a version was judged and, where that is left open, what would decide it."""
    hints = [
        Text(f"{'To decide it:' if not place else '          or'} {hint}") for place, hint in enumerate(_open(found))
    ]
    return Group(report(found), *hints)


def _open(found: Report) -> list[str]:
    """What a person can do about a gate that was left open; nothing where it was not."""
    if found.verdict is not Verdict.INCONCLUSIVE:
        return []
    if not found.findings:
        return ["adopt it with an example that holds the outcome: without one nothing can be measured."]
    hints = []
    for finding in found.worse_than(Verdict.PASS):
        rule, seen = finding.rule, finding.measurement
        if seen.problem == "no rival":
            hints.append('declare a `baseline` to beat, or say `without_rival="skip"` in the gate.')
        elif rule is not None and seen.n < rule.minimum_n:
            hints.append(
                f"train on more data or hold out more of it (`holdout`): {seen.n} held-out rows are too few to say "
                f"anything (`minimum_rows={rule.minimum_n}` in the gate)."
            )
        elif rule is not None and rule.certain and seen.name.endswith("_gain"):
            hints += [
                f"train on more data: {seen.n} held-out rows cannot tell this gain from chance (four times as many "
                "halve the interval).",
                "make the model better: the whole interval must lie above what is wanted.",
                "accept one that is surely not worse by more than you can bear: a negative `margin` in the gate.",
            ]
        elif rule is not None and rule.certain:
            hints.append(
                f"train on more data, or move the bound that {seen.name} must surely keep (`floor` in the gate)."
            )
    return list(dict.fromkeys(hints))


def _head(found: Report) -> Text:
    verdict = (found.verdict.name, COLOURS[found.verdict])
    return Text.assemble((found.title, "bold"), f" · {found.subject} · ", verdict)


def inspection(found: Report, counts: Mapping[str, int], file: Path | None) -> RenderableType:
    """A check of data against its contract, with how many rows were refused."""
    worse = found.worse_than(Verdict.PASS)
    kept = Text(f"{len(found.findings) - len(worse)} of {len(found.findings)} rules are kept by every row")
    line = f"{counts['accepted']} rows accepted, {counts['quarantined']} refused"
    if counts["quarantined"] and file is not None:
        line += f" -> {file}"
    return Group(report(msgspec.structs.replace(found, findings=worse)) if worse else _head(found), kept, Text(line))


# -- a version --------------------------------------------------------------------------------------------------------


def plain_trained(made: Trained) -> dict[str, Any]:
    """What training gave as JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(made)
    return {**plain, "report": plain_report(made.report), "inspection": plain_report(made.inspection)}


def trained(made: Trained, *, champion: bool) -> RenderableType:
    """What training gave, how it was judged, and what to do now."""
    rows = f"{made.rows}" + (f" ({made.quarantined} broke the contract and were set aside)" if made.quarantined else "")
    measured = ", ".join(f"{name} {value:.4g}" for name, value in sorted(made.metrics.items()))
    facts = [
        ("rows", rows),
        ("dataset", made.dataset),
        ("held-out" if made.dataset else "on the example", measured),
        ("served as", _served_as(made.compiled)),
        ("revision", made.revision),
        ("run", made.run_id),
        ("not tracked", made.problem),
        ("took", f"{made.seconds:.1f} s"),
    ]
    facts = [(name, value) for name, value in facts if value]
    parts: list[RenderableType] = [
        title(made.model, f"version {made.version}" if made.version is not None else "not registered"),
        pairs(facts),
    ]
    if made.inspection.verdict is not Verdict.PASS:
        open_findings = made.inspection.worse_than(Verdict.PASS)
        parts.append(report(msgspec.structs.replace(made.inspection, findings=open_findings)))
    parts.append(gate(made.report))
    return Group(*parts, Text(_next_step(made, champion)))


def _served_as(compiled: Mapping[str, Any], native: str = "its own format") -> str:
    if "held" not in compiled:  # an ONNX file of others' serves as it is
        return native + _quantised(compiled.get("quantised"))
    if compiled["held"]:
        form = f"ONNX (differs by at most {compiled.get('max_difference', 0.0):.2g} on {compiled.get('rows', 0)} rows)"
        return form + _quantised(compiled.get("quantised"))
    return f"{native}: {compiled.get('reason', 'not compiled')}{_quantised(compiled.get('quantised'))}"


def _quantised(said: Mapping[str, Any] | None) -> str:
    if said is None:
        return ""
    if not said["held"]:
        return f", not quantised: {said['reason']}"
    (before, after), (slow, fast) = said["bytes"], said["microseconds"]
    return f", quantised: {before / 1e3:,.0f} to {after / 1e3:,.0f} kB, {slow:,.0f} to {fast:,.0f} us a row"


def _next_step(made: Trained, champion: bool) -> str:
    if made.version is None:
        return (
            "The gate refused it, so nothing was registered. Change the model, the data, or a gate that asks too much."
        )
    if made.report.verdict is not Verdict.PASS:
        return (
            f"Version {made.version} is registered, but the gate left it open: as it is, it takes traffic only by "
            f"`undrift promote {made.model} --version {made.version} --force --why ...`."
        )
    verb = "roll-out" if champion else "promote"
    return f"Next: undrift {verb} {made.model} --version {made.version}"


def adopted(made: Scaffolded | None, got: Trained, *, champion: bool) -> RenderableType:
    """An adopted model, and the project that was made for it."""
    version = trained(got, champion=champion)
    return version if made is None else Group(scaffolded(made), version)


def scaffolded(made: Scaffolded) -> RenderableType:
    """What was written, what was inferred and by which rule, and what to do now."""
    return Group(
        title(f"project {made.name}", str(made.folder)),
        pairs([("task", f"{made.task}: {made.reason}"), ("data", made.data_note), *made.roles]),
        Text("  wrote " + ", ".join(made.files)),
        *(Text(f"  note: {note}", "yellow") for note in made.notes),
        Text(f"Next: {made.next_step}"),
    )


# -- declarations and events ------------------------------------------------------------------------------------------


def plan(changes: Mapping[str, Sequence[str]]) -> RenderableType:
    """What would change, per model; additions green, removals red."""
    colours = {"+": "green", "-": "red", "~": "yellow"}
    parts: list[RenderableType] = []
    for model, lines in changes.items():
        parts.append(title(model, f"{len(lines)} change(s)" if lines else "nothing to change"))
        parts += [Text(f"  {line}", colours.get(line[:1], "")) for line in lines]
    return Group(*parts)


def applied(events: Sequence[Event]) -> RenderableType:
    """Which declarations took effect."""
    if not events:
        return Text("nothing to change: the declarations are in effect already")
    return Group(*(Text(f"{e.subject.partition(':')[2]}: applied ({e.why}), event {e.seq}") for e in events))


def crowned(event: Event) -> RenderableType:
    """A promotion or a roll-back."""
    version = event.payload.get("version")
    what = f"version {version} is champion" if event.kind == "revision.promoted" else event.kind
    return Text(f"{event.subject.partition(':')[2]}: {what} ({event.why}), event {event.seq} by {event.actor}")


def history(events: Sequence[Event]) -> RenderableType:
    """One line per event: number, event time (UTC), kind, subject, who, why."""
    if not events:
        return Text("no events")
    rows = columns("seq", "at", "what", "about", "who", "why")
    for event in events:
        cells = (str(event.seq), minute(event.at), event.kind, event.subject, event.actor, event.why)
        rows.add_row(*(Text(cell) for cell in cells))
    return rows


# -- what is so -------------------------------------------------------------------------------------------------------


def status(found: Mapping[str, Any]) -> RenderableType:
    """Where everything stands, a block per model, then the processes."""
    parts: list[RenderableType] = [title(f"project {found['project']}", f"{minute(found['now'])} UTC")]
    for name, model in found["models"].items():
        parts += [Text(), title(name, model["task"]), pairs(_model_lines(model))]
    serving = [f"pid {s['pid']} (epoch {s.get('epoch', '?')})" for s in found["serving"]]
    work = found["work"]
    jobs = ", ".join(f"{count} {state}" for state, count in work["jobs"].items() if count)
    parts += [
        Text(),
        pairs(
            [
                ("serve", serving or "not running (undrift serve)"),
                *([("cost", [cost["text"] for cost in found["costs"]])] if found.get("costs") else []),
                *([("taken in until", minute(work["watermark"]))] if work["watermark"] else []),
                ("waits to be taken in", _lag(work)),
                ("judged until", minute(work["ticked"])),
                ("jobs", jobs or "none yet"),
            ]
        ),
    ]
    return Group(*parts)


def _lag(work: Mapping[str, Any]) -> str:
    """How far behind ingest is."""
    if not work["waiting_bytes"]:
        return "nothing"
    return f"{work['waiting_bytes'] / 1e6:,.1f} MB, the oldest for {work['lag_seconds']:,.0f} s"


def _model_lines(model: Mapping[str, Any]) -> list[tuple[str, Any]]:
    champion = (
        f"version {model['champion']} ({model['revision']})"
        if model["revision"]
        else "none yet: undrift train, undrift promote"
    )
    declared = {None: "never applied", True: "in effect", False: "changed since they were applied (undrift plan)"}
    lines: list[tuple[str, Any]] = [
        ("champion", champion),
        *([("served as", _served_as(**model["served_as"]))] if model.get("served_as") else []),
        ("versions", model["versions"]),
        ("declarations", declared[model["applied"]]),
    ]
    rollout = model["rollout"]
    if rollout:
        step = "shadow" if rollout["step"] < 0 else f"{rollout['weight']:g} % of units"
        reason = f" ({rollout['reason']})" if rollout.get("reason") else ""
        lines.append(("rollout", f"version {rollout['candidate_version']}: {rollout['status']}, {step}{reason}"))
    lines += [
        ("incident", Text(_words(i.get("title") or i.get("why") or i.get("fingerprint")), "red"))
        for i in model["incidents"]
    ] or [("incidents", "none open")]
    if model["retrain"]:
        lines.append(("retraining", ", ".join(f"{k} {_words(v)}" for k, v in model["retrain"].items())))
    return lines


def why(found: Mapping[str, Any]) -> RenderableType:
    """One prediction, explained."""
    registered, outcome = found["registered"], found["outcome"]
    threshold = "" if found["threshold"] is None else f" (positive from {found['threshold']:g})"
    answer = found["prediction"] if found["prediction"] is not None else found["score"]
    head = [
        ("answered", f"{minute(found['at'])} UTC, in {(found['latency_us'] or 0) / 1000:.2f} ms"),
        ("by", f"version {found['version']} ({found['revision']}), {found['variant']}"),
        ("registered", f"{minute(registered['at'])} by {registered['by']} ({registered['source']})"),
        ("unit", f"{_words(found['unit'])}, with probability {_words(found['propensity'])} on this variant"),
        ("prediction", Text(_words(answer), "bold")),
        ("score", _words(found["score"]) + threshold),
        ("contract", Text(_words(found["violations"]), "yellow") if found["violations"] else "kept"),
        ("outcome", f"{_words(outcome['label'])}, at {minute(outcome['at'])} UTC" if outcome else "not known yet"),
    ]
    if found["error"]:
        head.append(("error", Text(str(found["error"]), "red")))
    parts: list[RenderableType] = [title(found["id"], found["model"]), pairs(head), Text("inputs", "bold")]
    parts.append(pairs((found["inputs"] or {}).items()))
    if found["features"]:
        rows = columns("feature", "value", "from", "age")
        for name, feature in found["features"].items():
            cells = (name, _words(feature["value"]), feature["view"], feature["age"] or "-")
            rows.add_row(*(Text(cell) for cell in cells))
        parts.append(rows)
    return Group(*parts, explanation(found))


def config(settings: Iterable[tuple[str, Any, str]]) -> RenderableType:
    """Every setting with its value and its origin."""
    rows = columns("setting", "value", "from")
    for name, value, origin in settings:
        rows.add_row(Text(name), Text(_words(value) if value != "" else '""'), Text(origin, "dim"))
    return rows
