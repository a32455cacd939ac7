"""Everything that serving claims, in calls of at most seven minutes each.

    python benchmarks/bench_serving.py [PART ...]

Parts: trees, native, logistic, lightgbm, ways, workers, soak, connection, predictor, batch, explain; all of them if
none is named. Cells of the tables are appended to .bench/serving.jsonl, so parts may run on different days; `show`
prints all. Rivals are installed under .bench/ at the first run, which takes some minutes more.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN = "serving/run.py"
WAYS = "undrift,undrift-2,undrift-canary,undrift-thread,undrift-power"
PARTS = {
    "trees": [RUN, "table", "--model", "trees", "--seconds", "5"],
    "native": [RUN, "table", "--model", "native", "--seconds", "5",
               "--servers", "undrift,fastapi,mlflow,bentoml,mlserver,litserve"],
    "logistic": [RUN, "table", "--model", "logistic", "--seconds", "5"],
    "lightgbm": [RUN, "table", "--model", "lightgbm", "--seconds", "5"],
    "ways": [RUN, "table", "--model", "trees", "--seconds", "5", "--servers", WAYS],
    "workers": [RUN, "workers"],
    "soak": [RUN, "tail", "--seconds", "300"],
    "connection": ["serving/connection.py"],
    "predictor": ["serving/predictor.py"],
    "batch": ["batch/score.py"],
    "explain": ["explain/cost.py"],
}  # fmt: skip


def main(names: list[str]) -> None:
    """Run the parts named, or all."""
    unknown = [name for name in names if name not in (*PARTS, "show")]
    if unknown:
        raise SystemExit(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}, show")
    for name in names or PARTS:
        script, *options = PARTS.get(name, [RUN, "show"])
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, HERE / script, *options], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
