"""LitServe with its batching on: `python lit.py FOLDER PORT`."""

import sys
from pathlib import Path

import joblib
import litserve as ls
import numpy as np

folder, port = Path(sys.argv[1]), int(sys.argv[2])


class Api(ls.LitAPI):
    def setup(self, device):
        self.model = joblib.load(folder / "model.joblib")

    def decode_request(self, request):
        return request["instances"][0]

    def predict(self, rows):
        return self.model.predict_proba(np.array(rows, dtype=object))[:, 1].tolist()

    def encode_response(self, output):
        return {"predictions": [output]}


if __name__ == "__main__":
    server = ls.LitServer(Api(max_batch_size=64, batch_timeout=0.005), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, num_api_servers=1)
