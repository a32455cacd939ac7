"""Real data without strong drift: US census employment in Massachusetts, 2015 against 2016 to 2018. No alarm is right.

    python benchmarks/monitoring/census.py

The data come inside NannyML's package (rivals.py). Each later year is a window: within a year rows have no time (house-
holds come first, then group quarters, so chunks of rows are other people by construction). A column would alarm where
its distance is beyond the practical size, with the confidence that one false alarm over all years and columns asks for.
"""

from __future__ import annotations

import subprocess
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rivals import environment, python

from undrift.data.difference import difference
from undrift.data.profile import Profile
from undrift.stats.calibration import level_per_test

PRACTICAL = 0.2
EXPORT = """
import sys
import nannyml as nml
reference, analysis, targets = nml.load_us_census_ma_employment_data()
reference.to_parquet(f"{sys.argv[1]}/reference.parquet")
analysis.to_parquet(f"{sys.argv[1]}/analysis.parquet")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([str(python("nannyml")), "-c", EXPORT, folder], check=True, env=environment())
        before, now = (pq.read_table(f"{folder}/{part}.parquet") for part in ("reference", "analysis"))
    years = np.array(now["year"].to_pylist())
    # an id and the year tell the sets apart by what they are
    names = [n for n in now.column_names if n in before.column_names and n not in ("id", "year")]
    reference = Profile.of(before.select(names))
    chunks = {str(y): now.select(names).filter(pa.array(years == y)) for y in np.unique(years)}
    level = 1 - 2 * level_per_test(1, len(chunks), len(names))
    largest = dict.fromkeys(names, 0.0)
    alarms: list[str] = []
    for chunk in chunks.values():
        current = Profile.of(chunk, edges_from=reference)
        for name in names:
            found = difference(reference.columns[name], current.columns[name], level=level)
            if found is not None:
                largest[name] = max(largest[name], found.value)
                alarms += [name] if found.lower > PRACTICAL else []
    rows = ", ".join(f"{year}: {chunk.num_rows:,} rows" for year, chunk in chunks.items())
    print(f"{rows}; {len(names)} columns; practical size {PRACTICAL}")
    top = sorted(largest.items(), key=lambda each: -each[1])[:5]
    print("largest distances:", ", ".join(f"{name} {value:.3f}" for name, value in top))
    print(f"alarms: {len(alarms)} {sorted(set(alarms))}")


if __name__ == "__main__":
    main()
