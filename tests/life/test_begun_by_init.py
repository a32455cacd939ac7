"""What `undrift init` writes watches as it is: a changed input and lost quality become incidents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from threadpoolctl import threadpool_limits

from undrift import releases
from undrift.app.init import init
from undrift.ids import to_micros
from undrift.project import Project, open_project
from undrift.work import KINDS, Worker

from living import ME, Service, train  # isort: skip

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
LIVE, GRAMS, TURN, END = 14, 21, 31, 36
"""Days: the service begins, parcels (which tell no return) are weighed in grams, cheap orders come back, the end."""
PER_DAY = 120


def orders(first: int, last: int) -> pa.Table:
    """Orders of some days; dear ones and late ones come back more often, in the end cheap ones."""
    rng = np.random.default_rng(first)
    day = np.repeat(np.arange(first, last), PER_DAY)
    price, wait, parcel = (rng.gamma(shape, scale, len(day)) for shape, scale in ((3.0, 20.0), (2.0, 1.5), (4.0, 0.5)))
    odds = np.where(day >= TURN, -0.05, 0.05) * (price - 60) + 0.6 * (wait - 3)
    back = rng.random(len(day)) < 1 / (1 + np.exp(-odds))
    number = first * PER_DAY + np.arange(len(day))
    return pa.table(
        {
            "order_id": number,
            "ordered_at": pa.array([START + int(n) * DAY / PER_DAY for n in number], pa.timestamp("us", "UTC")),
            "price": price.round(2),
            "wait": wait.round(2),
            "parcel": np.where(day >= GRAMS, parcel * 1000, parcel).round(3),
            "returned": np.where(back, "yes", "no"),
        }
    )


@pytest.fixture
def shop(tmp_path: Path, tracked: Path) -> Iterator[Project]:
    """The project of init on two weeks of orders, in event time, with its first version as champion."""
    pyarrow.csv.write_csv(orders(0, LIVE), tmp_path / "orders.csv")
    init(tmp_path / "shop", tmp_path / "orders.csv", "returned", time="ordered_at", key="order_id")
    settings = tmp_path / "shop" / "undrift.toml"
    said = settings.read_text()
    changed = said.replace('tick = "5m"', 'mode = "event"\ntick = "1d"')
    assert changed != said
    settings.write_text(changed + "\n[work]\nlinger_seconds = 0.001\n")
    (tmp_path / "shop" / ".undrift").mkdir()
    shutil.copy(tracked, tmp_path / "shop" / ".undrift" / "mlflow.db")
    with open_project(tmp_path / "shop") as project:
        done = train(project)
        assert done.version == 1, done.report.to_text()
        releases.promote(project, actor=ME)
        yield project


def send(service: Service, worker: Worker, project: Project, day: int) -> None:
    """A day's orders with their outcomes, then the watermark; until the worker has judged it."""
    rows = orders(day, day + 1).to_pylist()
    asked = [{**row, "ordered_at": row["ordered_at"].isoformat()} for row in rows]
    outcomes = [
        {"id": str(row["order_id"]), "label": row["returned"], "event_time": row["ordered_at"]} for row in asked
    ]
    service.post("/v1/models/shop:predict", {"instances": [without(row, "returned") for row in asked]})
    service.post("/v1/models/shop/labels", {"labels": outcomes})
    announce(service, worker, project, day + 1)


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def announce(service: Service, worker: Worker, project: Project, day: int) -> None:
    at = to_micros(START + day * DAY)
    service.post("/v1/watermark", {"event_time": at})
    for _ in range(50):
        ticked = not worker.cycle() and (project.journal.get_setting("ticked") or 0) >= at
        if ticked and not project.jobs.unfinished(KINDS):
            return
    raise AssertionError(f"day {day} was not judged")


def test_what_init_wrote_notices_a_changed_input_and_lost_quality(shop: Project) -> None:
    service = Service(shop)
    try:
        with open_project(shop.root) as working, threadpool_limits(1):
            worker = Worker(working)
            announce(service, worker, shop, LIVE)
            for day in range(LIVE, END):
                send(service, worker, shop, day)
    finally:
        service.close()
    opened = [(event.at, event.payload["incident"]) for event in shop.journal.events(kinds=("alert.opened",))]
    first = {incident["monitor"]: (at, incident) for at, incident in reversed(opened)}
    at, incident = first["rows"]
    assert (at, incident["columns"]) == (START + (GRAMS + 1) * DAY, ["parcel"]), "out of range, after a day"
    at, incident = first["inputs"]
    assert incident["columns"] == ["parcel"]
    assert START + GRAMS * DAY < at <= START + TURN * DAY
    turned, incident = first["quality"]
    assert incident["kind"] == "performance"
    assert START + TURN * DAY < turned <= START + (TURN + 5) * DAY
    judged = [event.payload["monitors"]["answers"] for event in shop.journal.events(kinds=("tick.judged",))]
    assert set(judged[1:]) == {"PASS"}, "a day of these answers is enough to say that they are sound"
    asked = shop.journal.events(kinds=("retrain.requested",))
    assert [event.at for event in asked] == [turned], "the quality monitor, and only it, asks for a new version"
