"""A runtime for MLServer with adaptive batching on: object rows in one tensor, as its scikit-learn runtime has it."""

import joblib
import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.utils import get_model_uri


class Pipeline(MLModel):
    async def load(self) -> bool:
        self._model = joblib.load(await get_model_uri(self._settings))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = [np.array(list(given.data), dtype=object).reshape(-1) for given in payload.inputs]
        scores = self._model.predict_proba(np.stack(columns, axis=1))[:, 1]
        output = ResponseOutput(name="score", shape=[len(scores), 1], datatype="FP64", data=scores.tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
