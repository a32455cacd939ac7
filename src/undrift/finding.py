"""Measure and judge: the atoms that every room shares.

A Measurement is what was seen, with its uncertainty. A Rule is what a person wants. Judging one by the other gives a
Finding with one of four ordered verdicts; a Report holds findings, and its verdict is the worst of them. Nothing here
measures or acts: rooms do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

import msgspec

__all__ = ["Finding", "Interval", "Measurement", "Report", "Rule", "Table", "Verdict", "Window", "judge"]


class Verdict(IntEnum):
    """Four verdicts, ordered; the worst one wins.

    PASS: the evidence is there and says yes. INCONCLUSIVE: not enough evidence to say. ERROR: it could not be
    measured. FAIL: the evidence says no. Missing evidence is never PASS.
    """

    PASS = 0
    INCONCLUSIVE = 1
    ERROR = 2
    FAIL = 3

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """The worst of several; INCONCLUSIVE for none at all, because nothing was seen."""
        return max(verdicts, default=cls.INCONCLUSIVE)


if TYPE_CHECKING:
    _Bound = float
else:
    _Bound = float | None  # JSON has no infinity: it is written as null, and null is read back as no bound


class Interval(msgspec.Struct, frozen=True):
    """Lower and upper bound, infinite where there is none, and the level at which they hold (0.95 = 95 %)."""

    lower: _Bound
    upper: _Bound
    level: float = 0.95

    def __post_init__(self) -> None:
        for name, none in (("lower", -math.inf), ("upper", math.inf)):
            if getattr(self, name) is None:
                msgspec.structs.force_setattr(self, name, none)


class Window(msgspec.Struct, frozen=True):
    """A half-open span of event time, ``[start, end)``, aware UTC."""

    start: datetime
    end: datetime

    def __contains__(self, at: datetime) -> bool:
        return self.start <= at < self.end

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M}..{self.end:%Y-%m-%d %H:%M}"


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was seen.

    ``value`` is None where it could not be measured; then ``problem`` says why.
    ``segment`` is empty for the whole, else e.g. ``{"carrier": "UA"}``.
    """

    name: str
    value: float | None
    n: int = 0
    interval: Interval | None = None
    unit: str = ""
    window: Window | None = None
    segment: dict[str, str] = {}
    problem: str = ""
    detail: dict[str, Any] = {}

    @property
    def where(self) -> str:
        """The segment in words: ``carrier=UA``, or ``all``."""
        return ", ".join(f"{k}={v}" for k, v in sorted(self.segment.items())) or "all"


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person wants of one measure.

    The expectation is ``value <op> bound``. With ``certain`` the whole interval must agree (used where acting needs
    proof that things are good); without it the rule fails only when the whole interval disagrees (used where acting
    needs proof that things are bad). A measurement without interval is judged by its value.

    ``minimum_n``: below it the finding is INCONCLUSIVE. ``practical``: distance from the bound that is too small to
    matter, in the unit of the measure; it is granted to the value before it is judged.
    """

    measure: str
    op: Literal["<=", ">="]
    bound: float
    minimum_n: int = 1
    practical: float = 0.0
    certain: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.bound) or not self.practical >= 0:
            raise ValueError(f"the rule for {self.measure} has bound {self.bound} and practical size {self.practical}")

    def __str__(self) -> str:
        slack = f" (give {self.practical:g})" if self.practical else ""
        return f"{self.measure} {self.op} {self.bound:g}{slack}"


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measurement judged by one rule."""

    verdict: Verdict
    why: str
    measurement: Measurement
    rule: Rule | None = None


def _number(value: float) -> str:
    return f"{value:.4g}"


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return _number(value) if isinstance(value, float) else str(value)


def judge(rule: Rule, seen: Measurement) -> Finding:
    """Judge a measurement by a rule; pure.

    Returns
    -------
    Finding
        ERROR if nothing could be measured, INCONCLUSIVE below ``minimum_n`` or where the interval straddles the bound
        and certainty is asked for, FAIL or PASS otherwise.

    Examples
    --------
    >>> rule = Rule(measure="error_rate", op="<=", bound=0.01, minimum_n=100)
    >>> judge(rule, Measurement(name="error_rate", value=0.002, n=50)).verdict.name
    'INCONCLUSIVE'
    >>> judge(rule, Measurement(name="error_rate", value=None, n=500, problem="no log")).verdict.name
    'ERROR'
    >>> judge(rule, Measurement(name="error_rate", value=0.03, n=500)).why
    'error_rate is 0.03 (n=500), wanted <= 0.01'
    """
    numbers = [seen.value, *((seen.interval.lower, seen.interval.upper) if seen.interval else ())]
    if seen.value is None or any(number != number for number in numbers):
        reason = seen.problem or "not a number"
        return Finding(
            verdict=Verdict.ERROR, why=f"{rule.measure} could not be measured: {reason}", measurement=seen, rule=rule
        )
    if seen.n < rule.minimum_n:
        why = f"{rule.measure} is {_number(seen.value)} from n={seen.n}; at least {rule.minimum_n} are needed"
        return Finding(verdict=Verdict.INCONCLUSIVE, why=why, measurement=seen, rule=rule)
    sign = 1.0 if rule.op == "<=" else -1.0
    allowed = sign * rule.bound + rule.practical
    low, high = (seen.interval.lower, seen.interval.upper) if seen.interval else (seen.value, seen.value)
    best, worst = sorted((sign * low, sign * high))
    spread = f" [{_number(low)}, {_number(high)}]" if seen.interval else ""
    within = f" within {_number(rule.practical)}" if rule.practical else ""
    text = (
        f"{rule.measure} is {_number(seen.value)}{spread} (n={seen.n}), wanted {rule.op} {_number(rule.bound)}{within}"
    )
    if best > allowed:
        verdict = Verdict.FAIL
    elif worst <= allowed or not rule.certain:
        verdict = Verdict.PASS
    else:
        verdict, text = Verdict.INCONCLUSIVE, f"{text}, but the interval leaves it open"
    return Finding(verdict=verdict, why=text, measurement=seen, rule=rule)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Figures that are shown beside the findings and not judged: rows of numbers and text under named columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Findings about one subject; one class for contract checks, gates, rollouts and monitors."""

    title: str
    subject: str
    findings: tuple[Finding, ...] = ()
    at: datetime | None = None
    facts: dict[str, Any] = {}
    tables: tuple[Table, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings; INCONCLUSIVE when there is none."""
        return Verdict.worst(f.verdict for f in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def worse_than(self, verdict: Verdict) -> tuple[Finding, ...]:
        """The findings with a worse verdict than the one given, the worst first."""
        return tuple(sorted((f for f in self.findings if f.verdict > verdict), key=lambda f: -f.verdict))

    def place_of(self, finding: Finding) -> str:
        """Where a finding is true, as the end of a sentence; empty for everywhere alike.

        That is its own segment, or for one about all units the smallest segment that holds most of the difference.
        """
        whole = finding.measurement
        if whole.where != "all":
            return f" for {whole.where}"
        held = [
            (seen.n, seen.value * seen.n / (whole.value * whole.n), seen.where)
            for seen in (each.measurement for each in self.findings)
            if seen.name == whole.name and seen.where != "all" and seen.value is not None and whole.value and whole.n
        ]
        _, share, where = min((each for each in held if each[1] > 0.5), default=(0, 0.0, ""))
        return f", {min(share, 1.0):.0%} of it in {where}" if where else ""

    def __add__(self, other: Report) -> Report:
        """Both reports in one, under the title and subject of the first."""
        return msgspec.structs.replace(
            self,
            findings=self.findings + other.findings,
            facts={**self.facts, **other.facts},
            tables=self.tables + other.tables,
        )

    def to_text(self) -> str:
        """The report as plain lines: the title with the verdict, then one line per finding, the worst first."""
        ordered = sorted(self.findings, key=lambda f: -f.verdict)
        lines = [f"{self.title} · {self.subject} · {self.verdict.name}"]
        for found in ordered:
            where = "" if found.measurement.where == "all" else f" [{found.measurement.where}]"
            lines.append(f"  {found.verdict.name:<12} {found.why}{where}")
        for table in self.tables:
            lines.append(f"{table.title}: {' | '.join(table.columns)}")
            lines += ["  " + " | ".join(_cell(value) for value in row) for row in table.rows]
        return "\n".join(lines)

    def to_html(self) -> str:
        """The report as an HTML fragment; everything that came from outside is escaped."""
        from html import escape

        rows = "".join(
            f'<tr class="{f.verdict.name.lower()}"><td>{f.verdict.name}</td><td>{escape(f.measurement.where)}</td>'
            f"<td>{escape(f.why)}</td></tr>"
            for f in sorted(self.findings, key=lambda f: -f.verdict)
        )
        head = f"<h3>{escape(self.title)} · {escape(self.subject)} · {self.verdict.name}</h3>"
        judged = f"<table><tr><th>verdict</th><th>segment</th><th>why</th></tr>{rows}</table>"
        return head + judged + "".join(self._figures(table) for table in self.tables)

    @staticmethod
    def _figures(table: Table) -> str:
        from html import escape

        heads = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>" for row in table.rows
        )
        return f"<h4>{escape(table.title)}</h4><table><tr>{heads}</tr>{rows}</table>"

    def _repr_html_(self) -> str:
        return self.to_html()
