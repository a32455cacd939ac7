"""Months of daily ticks on a stream of known truth: one incident for each fault, drift and decay, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from undrift.data.contract import Contract, Field
from undrift.data.features import Feature, FeatureView
from undrift.deploy.traffic import values_of
from undrift.develop.bundle import Interface
from undrift.event import Draft
from undrift.finding import Verdict
from undrift.improve.triggers import Retrain, consider
from undrift.monitor.alerts import decide
from undrift.monitor.cells import Reference, reference_of
from undrift.monitor.evidence import Expected
from undrift.monitor.frames import columns_of
from undrift.monitor.monitors import Monitor
from undrift.monitor.watch import Scene, look_back, watch

START = datetime(2013, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
INTERFACE = Interface(
    model="flights",
    task="binary",
    contract=Contract(
        name="flights", fields=(Field(name="carrier", type="string"), Field(name="distance", type="number"))
    ),
    label="late",
    views=(FeatureView(name="weather", source="weather", entity="carrier", features=(Feature(name="temp"),)),),
    segments=("carrier",),
    classes=("0", "1"),
)
MONITORS = (
    Monitor(name="answers", kind="silent"),
    Monitor(name="inputs", kind="drift"),
    Monitor(name="outcomes", kind="drift", columns=("label",), window="14d", practical=0.05),
    Monitor(name="quality", kind="performance", metric="brier", by_segment=True),
)
Stream = Callable[..., pa.Table]


def learnt(stream: Stream, seed: int) -> tuple[dict[str, Reference], dict[str, Expected]]:
    """What the ninety days before the first of April teach."""
    past = stream(90, seed=seed, first=-90)
    reference = {name: reference_of(values) for name, values in columns_of(past).items()}
    loss = values_of(past, INTERFACE, ["brier"])["brier"]
    carrier = np.array(pc.struct_field(past["inputs"], "carrier").to_pylist())
    expected = {"brier": Expected(float(np.nanmean(loss)))}
    for c in ("UA", "DL", "AA", "HA"):
        expected[f"brier[carrier={c}]"] = Expected(float(np.nanmean(loss[carrier == c])))
    return reference, expected


def live(
    stream: Stream, days: int, *, seed: int = 0, change: Any = None
) -> tuple[list[tuple[int, Draft]], dict[str, Any]]:
    reference, expected = learnt(stream, seed)
    rows = stream(days + 20, seed=seed, first=-20, change=change)
    span, incidents, told = look_back(MONITORS), {}, []
    state: dict[str, Any] = {}
    times = rows["event_time"]
    for day in range(1, days + 1):
        now = START + day * DAY
        seen = pc.and_(
            pc.less(times, pa.scalar(now, times.type)), pc.greater_equal(times, pa.scalar(now - span, times.type))
        )
        scene = Scene(interface=INTERFACE, rows=rows.filter(seen), version=1, reference=reference, expected=expected)
        report = watch(MONITORS, scene, incidents, now)
        drafts = decide("flights", MONITORS, incidents, report, now)
        for draft in drafts:
            incidents[draft.payload["incident"]["fingerprint"]] = draft.payload["incident"]
        asked = consider(Retrain(), "flights", state, incidents, under_way=False, now=now)
        told += [(day, draft) for draft in (*drafts, *asked.drafts)]
        if asked.wanted:
            state = {"pending": True}
    return told, incidents


def kinds(told: list[tuple[int, Draft]], kind: str) -> list[tuple[int, str]]:
    return [(day, draft.why) for day, draft in told if draft.kind == kind]


def test_a_year_without_change_stays_well_within_the_budget_of_false_alarms(stream: Stream) -> None:
    # one in 30 days is tolerated for each of the four monitors: 48 in these 360 days
    told = [live(stream, 90, seed=seed)[0] for seed in range(4)]
    assert sum(len(kinds(each, "alert.opened")) for each in told) <= 4
    assert sum(len(kinds(each, "retrain.requested")) for each in told) <= 1


def test_a_week_of_constant_answers_is_one_incident_and_no_retrain(stream: Stream) -> None:
    def constant(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        if 30 <= day < 37:
            row["score"] = np.full(len(row["day"]), 0.7)

    told, incidents = live(stream, 60, change=constant)
    opened = kinds(told, "alert.opened")
    assert [day for day, _ in opened] == [31]
    assert "constant answers of version 1" in opened[0][1]
    assert [day for day, _ in kinds(told, "alert.resolved")] == [38]
    assert kinds(told, "retrain.requested") == []
    refused = {draft.key: draft.why for _, draft in told if draft.kind == "retrain.refused"}
    assert len(refused) == 1  # the same refusal has the same key, so it is stored once
    assert "a fault explains it" in next(iter(refused.values()))
    assert incidents["flights/answers"]["damage"]


def test_a_drift_of_inputs_is_told_once_with_its_columns(stream: Stream) -> None:
    def summer(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        row["temp"] = row["temp"] + np.clip((day - 20) * 2.0, 0, 50)
        if day >= 30:
            row["distance"] = row["distance"] * 3

    told, incidents = live(stream, 80, change=summer)
    assert len(kinds(told, "alert.opened")) == 1
    assert set(incidents["flights/inputs"]["columns"]) == {"temp", "distance"}
    assert incidents["flights/inputs"]["status"] == "open"
    assert len(kinds(told, "alert.updated")) <= 1
    assert kinds(told, "retrain.requested") == []  # drift alone asks for nothing: quality held


def test_decay_is_told_with_what_may_explain_it_and_asks_for_one_retrain(stream: Stream) -> None:
    def worse(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        if day >= 30:
            row["truth"] = np.clip(row["truth"] * 2.2, 0, 0.95)
            row["distance"] = row["distance"] * 4

    told, incidents = live(stream, 60, change=worse)
    quality = incidents["flights/quality"]
    assert quality["status"] == "open"
    opened = datetime.fromisoformat(quality["opened_at"])
    assert timedelta(days=2) <= opened - (START + 30 * DAY) <= timedelta(days=14)
    why = next(
        draft.payload["evidence"][0]["why"] for _, draft in told if draft.payload["incident"]["kind"] == "performance"
    )
    assert "brier is" in why
    assert "distance drifted" in why
    requests = kinds(told, "retrain.requested")
    assert [day for day, _ in requests] == [(opened - START).days]
    assert {f.split("/")[1] for f, i in incidents.items() if i["status"] == "open"} >= {"quality", "outcomes"}


def test_the_same_tick_gives_the_same_bytes(stream: Stream) -> None:
    import msgspec

    def worse(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        if day >= 5:
            row["truth"] = np.clip(row["truth"] * 2.5, 0, 0.95)

    one, two = (live(stream, 15, change=worse)[0] for _ in range(2))
    assert one
    assert msgspec.json.encode([d for _, d in one]) == msgspec.json.encode([d for _, d in two])


def test_no_expected_loss_is_an_error_and_never_fine(stream: Stream) -> None:
    scene = Scene(interface=INTERFACE, rows=stream(20, first=-20), version=1)
    report = watch(MONITORS, scene, {}, START)
    assert report.verdict is Verdict.ERROR
