"""Change detectors beside river's: equal where they are the same method, and delay at the same false alarms where not.

    python benchmarks/monitoring/change.py

Page-Hinkley of both on 50 streams: the place of the alarm has to be the same. Then streams of 0/1 losses whose mean
rises from 0.1 at value 5,000: undrift's e-detector with a stated run length of 20,000 values beside river's ADWIN and
DDM as they come; alarms before the change are false. river runs in its own environment (rivals.py).
"""

from __future__ import annotations

import json
import subprocess

import numpy as np
from rivals import environment, python

from undrift.stats.change import EDetector, PageHinkley

RIVER = """
import json, sys
import numpy as np
from river import drift
def first(detector, values):
    for place, x in enumerate(values):
        detector.update(x)
        if detector.drift_detected:
            return place + 1
    return None
def normal(seed):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(0, 1, 500), rng.normal(1, 1, 500)]).tolist()
def losses(seed, rise):
    rng = np.random.default_rng([seed, 9])
    return (rng.random(8000) < np.where(np.arange(8000) < 5000, 0.1, 0.1 + rise)).astype(int).tolist()
def page_hinkley():
    return drift.PageHinkley(min_instances=30, delta=0.05, threshold=20.0, alpha=1.0, mode="up")
same = [first(page_hinkley(), normal(s)) for s in range(50)]
found = {}
for rise in (0.02, 0.05, 0.1):
    found[f"ADWIN/{rise}"] = [first(drift.ADWIN(), losses(s, rise)) for s in range(30)]
    found[f"DDM/{rise}"] = [first(drift.binary.DDM(), losses(s, rise)) for s in range(30)]
print(json.dumps({"same": same, "found": found}))
"""


def normal(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(0, 1, 500), rng.normal(1, 1, 500)])


def losses(seed: int, rise: float) -> np.ndarray:
    rng = np.random.default_rng([seed, 9])
    return (rng.random(8000) < np.where(np.arange(8000) < 5000, 0.1, 0.1 + rise)).astype(float)


def main() -> None:
    done = subprocess.run(
        [str(python("river")), "-c", RIVER], env=environment(), capture_output=True, text=True, check=True
    )
    river = json.loads(done.stdout)
    ours = [PageHinkley(threshold=20.0, delta=0.05, warm_up=30).update(normal(s)).alarm_at for s in range(50)]
    equal = sum(a == b for a, b in zip(ours, river["same"], strict=True))
    print(f"Page-Hinkley: the same place in {equal} of 50 streams\n")
    print("| detector | rise of the loss | false before the change | found within 3,000 | median delay |")
    print("|---|---|---|---|---|")
    for rise in (0.02, 0.05, 0.1):
        mine = [EDetector(mean=0.1, run_length=20_000).update(losses(s, rise)).alarm_at for s in range(30)]
        for name, found in (
            ("undrift e-detector", mine),
            *((n, river["found"][f"{n}/{rise}"]) for n in ("ADWIN", "DDM")),
        ):
            false = sum(1 for a in found if a is not None and a <= 5000)
            delays = [a - 5000 for a in found if a is not None and a > 5000]
            middle = f"{np.median(delays):.0f}" if delays else "-"
            print(f"| {name} | {rise} | {false} of 30 | {len(delays)} of {30 - false} | {middle} |")


if __name__ == "__main__":
    main()
