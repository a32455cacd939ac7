"""Numbers of gbstats (GrowthBook's statistics) 0.8.0 for tests/golden, which also hold the formula in rules.py.

    python benchmarks/rollouts/gbstats_numbers.py        # writes tests/golden/gbstats.json

gbstats is installed without its pins into .bench/gbstats (it asks for numpy and pandas below 2 and runs unchanged on
newer ones) and is never imported by undrift.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".bench/gbstats"
TARGET = ROOT / "tests/golden/gbstats.json"
NEEDED = ("numpy==2.4.6", "pandas==3.1.1", "scipy==1.17.1", "pydantic==2.14.4", "packaging==26.4")

RECORD = """
import json, sys
import numpy as np
from gbstats.frequentist.tests import FrequentistConfig, SequentialConfig, SequentialTwoSidedTTest, TwoSidedTTest
from gbstats.models.statistics import RatioStatistic, RegressionAdjustedStatistic, SampleMeanStatistic, compute_theta
from gbstats.utils import check_srm

def mean(x):
    return SampleMeanStatistic(n=len(x), sum=float(x.sum()), sum_squares=float((x * x).sum()))

def answer(a, b, alpha):
    once = TwoSidedTTest(a, b, FrequentistConfig(difference_type="absolute", alpha=alpha)).compute_result()
    often = SequentialTwoSidedTTest(a, b, SequentialConfig(difference_type="absolute", alpha=alpha)).compute_result()
    return [once.expected, *once.ci, once.p_value, *often.ci]

cases = []
for seed in range(6):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(40, 400)), int(rng.integers(40, 400))
    alpha = float(rng.choice([0.01, 0.05, 0.1]))
    x, y = rng.lognormal(1, 0.8, n).round(4), rng.lognormal(1.1, 0.8, m).round(4)
    u, v = (x * rng.uniform(0.5, 1.5, n)).round(4), (y * rng.uniform(0.5, 1.5, m)).round(4)
    arms = [RegressionAdjustedStatistic(n=len(p), post_statistic=mean(p), pre_statistic=mean(q),
            post_pre_sum_of_products=float((p * q).sum()), theta=0.0) for p, q in ((x, u), (y, v))]
    theta = compute_theta(*arms)
    for arm in arms:
        arm.theta = theta
    ratios = [RatioStatistic(n=len(p), m_statistic=mean(p), d_statistic=mean(q),
              m_d_sum_of_products=float((p * q).sum())) for p, q in ((x, u), (y, v))]
    counts, weights = rng.integers(500, 2000, 3), rng.uniform(0.5, 2, 3).round(3)
    cases.append({
        "alpha": alpha, "x": x.tolist(), "y": y.tolist(), "u": u.tolist(), "v": v.tolist(),
        "mean": answer(mean(x), mean(y), alpha), "ratio": answer(*ratios, alpha), "cuped": answer(*arms, alpha),
        "counts": counts.tolist(), "weights": weights.tolist(),
        "srm": float(check_srm(counts.tolist(), weights.tolist())),
    })
json.dump(cases, sys.stdout)
"""


def python() -> Path:
    """The environment's Python; made the first time."""
    found = PLACE / "bin/python"
    if not found.exists():
        venv.create(PLACE, with_pip=True)
        subprocess.run([found, "-m", "pip", "install", "-q", *NEEDED], check=True)
        subprocess.run([found, "-m", "pip", "install", "-q", "--no-deps", "gbstats==0.8.0"], check=True)
    return found


def main() -> None:
    done = subprocess.run([python(), "-c", RECORD], check=True, capture_output=True, text=True)
    cases = json.loads(done.stdout)
    TARGET.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    sys.stdout.write(f"{len(cases)} cases written to {TARGET.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
