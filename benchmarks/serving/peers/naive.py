"""FastAPI as most people write it: the body as a model, a data frame, the pipeline.

`python naive.py FOLDER PORT`, in an environment with fastapi, uvicorn, pandas and scikit-learn.
"""

import sys
from pathlib import Path
from typing import Any

import joblib
import pandas as pd  # noqa: TID251  what a rival does
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel  # noqa: TID251

folder, port = Path(sys.argv[1]), int(sys.argv[2])
model = joblib.load(folder / "model.joblib")
app = FastAPI()


class Body(BaseModel):
    instances: list[list[Any]]


@app.post("/predict")
def predict(body: Body) -> dict[str, Any]:
    frame = pd.DataFrame(body.instances)
    return {"predictions": model.predict_proba(frame)[:, 1].tolist()}


uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")
