"""The rivals of the monitoring benchmarks, each in an environment of its own under .bench/, never in the project's.

    python benchmarks/monitoring/rivals.py [NAME...]        make the environments (all if none is named)

Nothing is measured here. Versions are exact, so that results can be had again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".bench"
PACKAGES = {
    "evidently": ("evidently==0.7.23", "pandas==2.3.3", "numpy==2.3.5", "pyarrow==22.0.0"),
    "nannyml": ("nannyml==0.13.1", "statsmodels", "pyarrow"),
    "alibi": ("alibi-detect==0.13.0", "pandas==2.3.3", "pyarrow==20.0.0"),
    "river": ("river==0.26.1",),
    "scipy": ("scipy", "pandas", "pyarrow"),
}


def python(name: str) -> Path:
    """The interpreter of a rival's environment, made if it is not there."""
    home = HOME / name
    ready = home / "ready"
    wanted = "\n".join(PACKAGES[name])
    program = home / "bin" / "python"
    if not ready.exists() or ready.read_text() != wanted:
        venv.create(home, with_pip=True, clear=True)
        command = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name]]
        subprocess.run(command, check=True)
        ready.write_text(wanted)
    return program


def environment() -> dict[str, str]:
    """No telemetry, one thread for numerics: what is compared is the work, not who takes both cores."""
    quiet = {"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


if __name__ == "__main__":
    for each in sys.argv[1:] or PACKAGES:
        print(each, python(each), flush=True)
