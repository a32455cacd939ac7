"""The limit: a hand-made raw-ASGI server on uvicorn with onnxruntime, which checks and records nothing.

`python hand.py FOLDER PORT`, in an environment with uvicorn, uvloop, httptools, onnxruntime and msgspec.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import uvicorn

folder, port = Path(sys.argv[1]), int(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
inputs = [(given.name, object if given.type == "tensor(string)" else np.float32) for given in session.get_inputs()]
columns = msgspec.json.decode((folder / "rows.json").read_bytes())["columns"]
wanted = [session.get_outputs()[-1].name]
HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    rows = msgspec.json.decode(body)["instances"]
    if inputs[0][0] == "matrix":
        feeds = {"matrix": np.array([[row[name] for name in columns] for row in rows], dtype=np.float32)}
    else:
        feeds = {name: np.array([[row[name]] for row in rows], dtype=kind) for name, kind in inputs}
    found = session.run(wanted, feeds)[0]
    answer = msgspec.json.encode({"predictions": found[:, 1].tolist()})
    headers = [*HEADERS, (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(
    app,
    host="127.0.0.1",
    port=port,
    loop="uvloop",
    http="httptools",
    access_log=False,
    log_level="warning",
    lifespan="off",
)
