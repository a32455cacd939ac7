"""A/A: how often does a rule roll back a candidate that is as good as the champion?

    python benchmarks/rollouts/false_alarms.py [--paths 2000] [--units 20000]

2,000 rollouts of 20,000 units, judged every 100 units, at shares of 5 % and 50 %, over all and over all plus 20
segments (which share alpha). A rule that may be looked at always must stay at or below alpha; the last column is the
largest share that chance allows a rule at exactly alpha (99.9 %).
"""

from __future__ import annotations

import argparse

from populations import METRICS, sums
from rules import alarms
from scipy.stats import binom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=2000)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--metric", choices=list(METRICS), action="append")
    parser.add_argument("--share", type=float, action="append")
    chosen = parser.parse_args()
    print("| metric | share | segments | alpha | rule | false alarms | allowed |\n|---|---|---|---|---|---|---|")
    for metric in chosen.metric or METRICS:
        for share in chosen.share or (0.05, 0.5):
            for segments in (1, 20):
                found: dict[tuple[float, str], int] = {}
                for table in sums(metric, chosen.paths, chosen.units, share, 0.0, segments=segments):
                    for alpha in (0.01, 0.05):
                        for rule, alarm in alarms(metric, table, share, alpha).items():
                            key = (alpha, rule)
                            found[key] = found.get(key, 0) + int(alarm.any(axis=1).sum())
                for (alpha, rule), count in found.items():
                    allowed = binom.ppf(0.999, chosen.paths, alpha) / chosen.paths
                    row = (metric, f"{share:.0%}", segments, f"{alpha:.0%}", rule, f"{count / chosen.paths:.2%}")
                    print("|", " | ".join(map(str, row)), f"| {allowed:.2%} |", flush=True)


if __name__ == "__main__":
    main()
