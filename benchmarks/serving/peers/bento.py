"""BentoML with adaptive batching on: started as `bentoml serve bento:Bench`, the model's folder in BENCH_MODEL."""

import os
from pathlib import Path
from typing import Any

import bentoml
import joblib
import numpy as np


@bentoml.service(workers=1, traffic={"timeout": 60})
class Bench:
    def __init__(self) -> None:
        self.model = joblib.load(Path(os.environ["BENCH_MODEL"]) / "model.joblib")

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, instances: list[Any]) -> list[float]:
        return self.model.predict_proba(np.array(instances, dtype=object))[:, 1].tolist()
