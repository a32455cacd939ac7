"""A drift job on 1,000,000 rows: undrift against a hand-made numpy job, a scipy loop and other drift tools.

    python benchmarks/monitoring/drift_speed.py [--rows N] [--repeats K] [--only NAME,...]

Reference 100,000 rows, 20 numeric and 10 categorical columns, five of them shifted; from Parquet on disk to a verdict a
column, each tool in a process of its own (tools in environments of their own, see rivals.py), tools taking turns, best
of K. Time runs from the first read to the last verdict, imports left out; peak memory is that of the whole process. The
others read both files; undrift reads the current rows and the reference's profile, as it does in production: the time
to make that profile is told apart. "undrift with profile" also makes the profile of the current rows, which is what a
worker keeps for the weeks to come.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHIFTED = ("n0", "n1", "n2", "c0", "c1")

DATA = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
folder, rows = sys.argv[1], int(sys.argv[2])
def table(n, seed, moved):
    rng = np.random.default_rng(seed)
    columns = {f"n{i}": rng.normal(0.3 if moved and i < 3 else 0, 1, n) for i in range(20)}
    for i in range(10):
        p = np.ones(12) / 12
        if moved and i < 2:
            p = np.array([3] * 4 + [1] * 8) / 20
        columns[f"c{i}"] = pa.array(np.array([f"value {k}" for k in range(12)])[rng.choice(12, n, p=p)])
    return pa.table(columns)
pq.write_table(table(100_000, 1, False), f"{folder}/reference.parquet")
pq.write_table(table(rows, 2, True), f"{folder}/current.parquet")
from undrift.data.profile import Profile
import time
start = time.perf_counter()
text = Profile.of(pq.read_table(f"{folder}/reference.parquet")).to_json()
open(f"{folder}/reference.json", "w").write(text)
print(f"the reference profile takes {time.perf_counter() - start:.2f} s and {len(text) / 1024:.0f} KiB")
"""

TAIL = """
import resource, json
took = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_SELF)
cpu = used.ru_utime + used.ru_stime - began
print(json.dumps({"s": took, "cpu": cpu, "mib": used.ru_maxrss / 1024, "drifted": sorted(drifted)}))
"""

CLOCK = "start = time.perf_counter()\n"
CPU = """import resource
began = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
"""

UNDRIFT = """
import sys, time
from undrift.data.difference import parquet_differences
from undrift.data.profile import Profile
import scipy.special, pyarrow.parquet
folder = sys.argv[1]
start = time.perf_counter()
reference = Profile.from_json(open(f"{folder}/reference.json", "rb").read())
found = parquet_differences(reference, f"{folder}/current.parquet")
drifted = [name for name, each in found.items() if each.lower > 0.05]
"""

KEPT = UNDRIFT.replace("import parquet_differences", "import differences").replace(
    'parquet_differences(reference, f"{folder}/current.parquet")',
    'differences(reference, Profile.of_parquet(f"{folder}/current.parquet", edges_from=reference))',
)

HAND = """
import sys, time
import numpy as np, pyarrow.parquet as pq, pyarrow.compute as pc
from scipy.special import chdtrc, kolmogorov
folder = sys.argv[1]
start = time.perf_counter()
a, b = (pq.read_table(f"{folder}/{part}.parquet") for part in ("reference", "current"))
drifted = []
for name in a.column_names:
    if name[0] == "n":
        x, y = np.sort(a[name].to_numpy()), np.sort(b[name].to_numpy())
        n, m = len(x), len(y)
        # between two values of the smaller sample the other only rises: its left and right limits at each are enough
        left, right = np.searchsorted(y, x, "left") / m, np.searchsorted(y, x, "right") / m
        d = max(np.abs(np.arange(n) / n - left).max(), np.abs(np.arange(1, n + 1) / n - right).max())
        p = kolmogorov(d * np.sqrt(n * m / (n + m)))
    else:
        pairs = [pc.value_counts(table[name]) for table in (a, b)]
        counts = [dict(zip(v.field("values").to_pylist(), v.field("counts").to_pylist())) for v in pairs]
        names = sorted(set(counts[0]) | set(counts[1]))
        table = np.array([[c.get(k, 0) for k in names] for c in counts], dtype=float)
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        p = chdtrc(len(names) - 1, ((table - expected) ** 2 / expected).sum())
    if p < 0.05 / 30:
        drifted.append(name)
"""

SCIPY = """
import sys, time
import pandas as pd
from scipy.stats import chi2_contingency, ks_2samp
folder = sys.argv[1]
start = time.perf_counter()
a, b = (pd.read_parquet(f"{folder}/{part}.parquet") for part in ("reference", "current"))
drifted = []
for name in a.columns:
    if name[0] == "n":
        p = ks_2samp(a[name], b[name], method="asymp").pvalue
    else:
        p = chi2_contingency(pd.concat([a[name].value_counts(), b[name].value_counts()], axis=1).fillna(0).T)[1]
    if p < 0.05 / 30:
        drifted.append(name)
"""

ALIBI = """
import sys, time
import numpy as np, pandas as pd
from alibi_detect.cd import TabularDrift
folder = sys.argv[1]
start = time.perf_counter()
a, b = (pd.read_parquet(f"{folder}/{part}.parquet") for part in ("reference", "current"))
names = list(a.columns)
maps = {c: {v: k for k, v in enumerate(sorted(a[c].unique()))} for c in names if c[0] == "c"}
def matrix(frame):
    coded = [frame[c].map(maps[c]).to_numpy(dtype=np.float64) if c in maps else frame[c].to_numpy() for c in names]
    return np.column_stack(coded)
x, y = matrix(a), matrix(b)
detector = TabularDrift(x, p_val=0.05, categories_per_feature={names.index(c): None for c in maps})
found = detector.predict(y, drift_type="feature", return_p_val=True)["data"]
drifted = [c for c, p in zip(names, found["p_val"]) if p < 0.05 / 30]
"""

NANNYML = """
import sys, time
import pandas as pd
import nannyml as nml
folder = sys.argv[1]
start = time.perf_counter()
a, b = (pd.read_parquet(f"{folder}/{part}.parquet") for part in ("reference", "current"))
names = list(a.columns)
calc = nml.UnivariateDriftCalculator(column_names=names, continuous_methods=["kolmogorov_smirnov"],
    categorical_methods=["chi2"], chunk_size=100_000)
found = calc.fit(a).calculate(b).filter(period="analysis").to_df()
drifted = []
for name in names:
    method = "kolmogorov_smirnov" if name[0] == "n" else "chi2"
    if found[(name, method, "alert")].any():
        drifted.append(name)
"""

EVIDENTLY = """
import sys, time
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
folder = sys.argv[1]
start = time.perf_counter()
a, b = (pd.read_parquet(f"{folder}/{part}.parquet") for part in ("reference", "current"))
numeric, text = [c for c in a.columns if c[0] == "n"], [c for c in a.columns if c[0] == "c"]
shape = DataDefinition(numerical_columns=numeric, categorical_columns=text)
before, now = (Dataset.from_pandas(frame, data_definition=shape) for frame in (a, b))
report = Report([DataDriftPreset()]).run(now, before)
drifted = []
for metric in report.dict()["metrics"]:
    column = metric.get("config", {}).get("column")
    if column and isinstance(metric["value"], float) and metric["value"] > 0.1:
        drifted.append(column)
"""

TOOLS = {
    "hand-made numpy": (None, HAND),
    "undrift": (None, UNDRIFT),
    "undrift with profile": (None, KEPT),
    "scipy loop": ("scipy", SCIPY),
    "alibi-detect": ("alibi", ALIBI),
    "NannyML": ("nannyml", NANNYML),
    "Evidently": ("evidently", EVIDENTLY),
}
WANTED = {"hand-made numpy": 1 / 1.3, "scipy loop": 2, "alibi-detect": 3, "NannyML": 8, "Evidently": 50}


def main() -> None:
    from rivals import environment, python

    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rows", type=int, default=1_000_000)
    asked.add_argument("--repeats", type=int, default=3)
    asked.add_argument("--only", default=",".join(TOOLS))
    given = asked.parse_args()
    names = [name for name in TOOLS if name in given.only.split(",")]
    programs = {name: str(python(TOOLS[name][0])) if TOOLS[name][0] else sys.executable for name in names}
    best: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", DATA, folder, str(given.rows)], check=True)
        for repeat in range(given.repeats):
            for name in names:
                if name == "Evidently" and repeat:
                    continue  # a minute each
                done = subprocess.run(
                    [programs[name], "-c", TOOLS[name][1].replace(CLOCK, CLOCK + CPU, 1) + TAIL, folder],
                    env=environment(),
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    print(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
                    continue
                seen = json.loads(done.stdout.strip().splitlines()[-1])
                print(f"{name}: {seen['s']:.2f} s, CPU {seen['cpu']:.2f} s, {seen['mib']:.0f} MiB", flush=True)
                if name not in best or seen["s"] < best[name]["s"]:
                    best[name] = seen
    ours = best["undrift"]
    leanest = min((float(seen["mib"]) for name, seen in best.items() if name[:7] != "undrift"), default=float("nan"))
    print(f"\n{given.rows:,} rows, reference 100,000; best of {given.repeats} (Evidently once)\n")
    print(
        "| tool | s | times undrift's | wanted at least | CPU s | times undrift's | peak MiB | found | others named |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, seen in sorted(best.items(), key=lambda each: each[1]["s"]):
        found = set(seen["drifted"])
        wanted = f"{WANTED[name]:.2f}" if name in WANTED else ""
        print(
            f"| {name} | {seen['s']:.2f} | {seen['s'] / ours['s']:.2f} | {wanted} | {seen['cpu']:.2f} "
            f"| {seen['cpu'] / ours['cpu']:.2f} | {seen['mib']:.0f} "
            f"| {len(found & set(SHIFTED))} of 5 | {len(found - set(SHIFTED))} |"
        )
    print(f"\npeak memory of undrift is {ours['mib'] / leanest:.2f} times that of the leanest other (wanted: 0.5)")


if __name__ == "__main__":
    main()
