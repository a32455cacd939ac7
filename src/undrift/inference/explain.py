"""Explaining by the form that serves; and the process in which a server lets it be done.

`open_explainer` opens a bundle for explanations. Run as a module this file is that process: it reads requests from its
standard input and writes answers to its standard output until the input ends, one at a time, with a lower priority than
the server has. The server's end of the pipes stands in apart.py.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.develop.explain import Explainer
from undrift.develop.importance import Columns
from undrift.errors import MissingExtraError, RequestError, UndriftError
from undrift.inference.apart import Asked, Told, read_frame, write_frame
from undrift.inference.predictor import Predictor, load
from undrift.settings import TrustSettings

__all__ = ["open_explainer", "raw_of"]

NICENESS: Final = 10
_KEPT: Final = 4


def open_explainer(folder: Path, trust: TrustSettings, predictor: Predictor | None = None) -> Explainer:
    """A bundle, opened for explanations.

    Parameters
    ----------
    predictor : of the same bundle, if it is open already.

    Raises
    ------
    ModelError, MissingExtraError : as `inference.predictor.load`.
    """
    served = predictor or load(folder, trust)
    return Explainer(folder, served.manifest, raw_of(served), trust)


def raw_of(predictor: Predictor) -> Callable[[Columns], Any]:
    """The form that serves as a function of encoded columns: (n,) for regression, else probabilities by class."""
    import numpy as np

    task = predictor.manifest.interface.task

    def raw(columns: Columns) -> Any:
        given: Any = columns
        out = predictor.predict(given)
        if task == "multiclass":
            return np.asarray(out.scores, dtype=np.float64)
        score = np.asarray(out.score, dtype=np.float64)
        return np.column_stack([1.0 - score, score]) if task == "binary" else score

    return raw


def _answer(asked: Asked, opened: dict[str, Explainer]) -> Told:
    until = time.monotonic() + asked.seconds
    try:
        if asked.folder not in opened:
            while len(opened) >= _KEPT:
                del opened[next(iter(opened))]
            opened[asked.folder] = open_explainer(Path(asked.folder), asked.trust)
        found = opened[asked.folder].explain(
            asked.columns, method=asked.method, label=asked.label, left=lambda: until - time.monotonic()
        )
        return Told(explanations=found)
    except RequestError as error:
        return Told(error=error.reason, hint=error.hint, path=error.path)
    except (UndriftError, MissingExtraError) as error:
        return Told(error=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001  the process must outlive what a library does with a model
        return Told(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _run() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends this process
    os.nice(NICENESS)
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    decoder, opened = msgspec.msgpack.Decoder(Asked), dict[str, Explainer]()
    while (content := read_frame(source)) is not None:
        told = _answer(decoder.decode(content), opened)
        target.write(write_frame(msgspec.msgpack.encode(told)))
        target.flush()


if __name__ == "__main__":
    _run()
