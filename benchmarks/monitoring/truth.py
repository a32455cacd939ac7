"""The truth table: false alarms against the stated budget, and what is found how soon, on simulated streams.

    python benchmarks/monitoring/truth.py run undrift [--seeds 100] [--first 0]     one contender; some 15 s a seed
    python benchmarks/monitoring/truth.py run plain|alibi|nannyml|evidently         a rival, in its own environment
    python benchmarks/monitoring/truth.py table [--kept]                            all side by side, as Markdown

Streams: streams.py. Contenders look at the same windows, the last seven days of each day (a rival with ``--span 1`` at
the day alone). Each of undrift's monitors has a budget of false alarms in 30 days (truth_watch.py). The others raise an
alarm when any of 30 columns is beyond its threshold, as they come; and once more with the threshold moved to where they
raise as few alarms on unchanged streams as all of undrift's monitors together (found on those streams, which favours
them). Each seed is a line in .bench/truth.jsonl as soon as it is done, so a run that is cut short is a table of fewer
seeds. The lines behind the table of the docs, whose rivals take most of an hour, are kept in truth.jsonl.xz (scores to
four digits): ``table --kept`` makes it of these.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = HERE.parents[1] / ".bench" / "truth.jsonl"
KEPT = HERE / "truth.jsonl.xz"
HOMES = {"plain": "scipy", "alibi": "alibi", "nannyml": "nannyml", "evidently": "evidently"}


def run(given: argparse.Namespace) -> None:
    """Append a line for each seed of a contender."""
    from rivals import environment, python

    seeds = [str(given.first), str(given.first + given.seeds)]
    if given.contender == "undrift":
        command = [sys.executable, str(HERE / "truth_watch.py"), *seeds]
    else:
        program = str(python(HOMES[given.contender]))
        command = [program, str(HERE / "truth_rival.py"), given.contender, str(given.span), *seeds]
    FOUND.parent.mkdir(exist_ok=True)
    with FOUND.open("a") as out:
        subprocess.run(command, stdout=out, env=environment(), check=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("part", choices=("run", "table"))
    asked.add_argument("contender", nargs="?", default="undrift", choices=("undrift", *HOMES))
    asked.add_argument("--seeds", type=int, default=20)
    asked.add_argument("--first", type=int, default=0)
    asked.add_argument("--span", type=int, default=7)
    asked.add_argument("--kept", action="store_true")
    given = asked.parse_args()
    if given.part == "table":
        from truth_table import write

        write(KEPT if given.kept else FOUND)
    else:
        run(given)


if __name__ == "__main__":
    sys.exit(main())
