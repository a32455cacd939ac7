"""Power and delay: how many units does each rule need before it rolls back a candidate that is worse?

    python benchmarks/rollouts/power.py [--paths 1000] [--units 20000] [--share 0.5]

Each path is judged every 100 units at alpha 5 %; the candidate's mean is worse by the loss. "Delay" is the median
number of units, both arms together, counting a path without alarm as one that never ends. The last column compares
undrift's delay with the shortest of the rules that may be looked at always and did not alarm too often at a loss of 0.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from populations import BLOCK, METRICS, sums
from rules import VALID, alarms
from scipy.stats import binom

LOSSES = (0.0, 0.01, 0.02, 0.05, 0.10, 0.50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=1000)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--metric", choices=list(METRICS), action="append")
    chosen = parser.parse_args()
    print("| metric | loss | rule | power | median delay, units | undrift to best |\n|---|---|---|---|---|---|")
    for metric in chosen.metric or METRICS:
        valid = set(VALID)
        for loss in LOSSES:
            delays: dict[str, list[np.ndarray]] = {}
            for table in sums(metric, chosen.paths, chosen.units, chosen.share, loss):
                for rule, alarm in alarms(metric, table, chosen.share, chosen.alpha).items():
                    first = np.where(alarm.any(axis=1), (alarm.argmax(axis=1) + 1.0) * BLOCK, math.inf)
                    delays.setdefault(rule, []).append(first)
            joined = {rule: np.concatenate(parts) for rule, parts in delays.items()}
            medians = {rule: float(np.median(delay)) for rule, delay in joined.items()}
            if loss == 0:
                most = binom.ppf(0.999, chosen.paths, chosen.alpha)
                valid = {rule for rule in VALID if rule in joined and np.isfinite(joined[rule]).sum() <= most}
            best = min((medians[rule] for rule in valid if rule in medians), default=math.inf)
            for rule, delay in joined.items():
                median = "" if math.isinf(medians[rule]) else f"{medians[rule]:.0f}"
                ratio = f"{medians[rule] / best:.2f}" if rule == "undrift" and best < math.inf else ""
                power = float(np.isfinite(delay).mean())
                print(f"| {metric} | {loss:.0%} | {rule} | {power:.1%} | {median} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
