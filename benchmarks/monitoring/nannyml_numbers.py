"""Record what NannyML's CBPE estimates on streams made here; tests/golden/test_nannyml.py asks the same of undrift.

python benchmarks/monitoring/nannyml_numbers.py > tests/golden/nannyml.json
"""

from __future__ import annotations

import subprocess

from rivals import environment, python

RECORD = """
import json, warnings
warnings.simplefilter("ignore")
import numpy as np, pandas as pd, nannyml as nml
def rows(seed, n, shift):
    rng = np.random.default_rng(seed)
    score = 1 / (1 + np.exp(-rng.normal(shift, 1.5, n)))
    truth = (rng.random(n) < score**1.3).astype(int)
    return pd.DataFrame({"score": score, "said": (score >= 0.5).astype(int), "truth": truth})
parts = [rows(2 + k, 2000, shift) for k, shift in enumerate((0.0, 0.7, -0.7))]
estimator = nml.CBPE(problem_type="classification_binary", y_pred_proba="score", y_pred="said", y_true="truth",
    metrics=["roc_auc", "accuracy"], chunk_size=2000).fit(rows(1, 6000, 0.0))
found = estimator.estimate(pd.concat(parts, ignore_index=True)).filter(period="analysis").to_df()
kept = {m: [float(v) for v in found[(m, "value")]] for m in ("accuracy", "roc_auc")}
print(json.dumps({"nannyml": nml.__version__, **kept}))
"""

if __name__ == "__main__":
    done = subprocess.run(
        [str(python("nannyml")), "-c", RECORD], env=environment(), check=True, text=True, capture_output=True
    )
    print(done.stdout.strip().splitlines()[-1])
