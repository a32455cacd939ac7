"""A compiled model in onnxruntime: columns of values in, its own output out, with little more than the model's time.

The parity check and serving run a model through this one class. A dense graph (graphs.py) is fed through buffers that
are made once for each number of rows; every other graph gets one tensor per input. What the output means stands in
rows.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from undrift.develop.bundle import Input
from undrift.develop.graphs import LAYOUT, MATRIX, Layout
from undrift.develop.rows import encode, from_tensors, tensors
from undrift.errors import ModelError, PredictionError
from undrift.plugins import resolve_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Session"]

_MOST: Final = 64  # buffers are kept for up to this many rows: what micro-batches have
_NAN: Final = float("nan")


class _Buffers:
    """Input and output memory of one number of rows, and the binding that lets the runtime work on it directly."""

    __slots__ = ("bound", "column", "matrix", "out", "row")

    def __init__(self, session: Any, matrix: Any, output: str, out: Any) -> None:
        self.matrix, self.out = matrix, out
        self.row = memoryview(matrix).cast("B")
        letter = "d" if matrix.itemsize == 8 else "f"
        self.column = struct.Struct(f"={matrix.shape[1]}{letter}").pack_into
        self.bound = session.io_binding()
        self.bound.bind_input(MATRIX, "cpu", 0, matrix.dtype.type, matrix.shape, matrix.ctypes.data)
        self.bound.bind_output(output, "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)


class _Words(dict[Any, float]):
    """The place of each known text in its list, -1 for any other; what is absent is the empty text."""

    def __missing__(self, value: Any) -> float:
        if value is None:
            return self.get("", -1.0)
        return -1.0 if isinstance(value, str) else self.get(str(value), -1.0)


class Session:
    """A compiled model, run on one thread per call. May be called from several threads.

    Parameters
    ----------
    source : content of the file, or its path.
    inputs : the model's inputs; those that the graph does not take are left out.
    task : what its output means, as for `rows.from_tensors`.

    Raises
    ------
    ModelError : the runtime cannot load it, or it takes other inputs.
    MissingExtraError : onnxruntime is not installed.
    """

    most: Final = _MOST
    """The largest number of rows for `few`."""

    def __init__(self, source: bytes | Path, inputs: Sequence[Input], task: str) -> None:
        import numpy as np

        wanted = "a compiled model" if isinstance(source, bytes) else f"the compiled model {source}"
        runtime = resolve_path("onnxruntime:InferenceSession", wanted_for=wanted, extra="onnx")
        options = resolve_path("onnxruntime:SessionOptions", wanted_for=wanted, extra="onnx")()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised; warnings about the graph help nobody here
        try:
            content = source if isinstance(source, bytes) else str(source)
            self._session = runtime(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise ModelError(f"the ONNX model cannot be loaded: onnxruntime says {first}.") from error
        self.task = task
        self.output = self._session.get_outputs()[-1].name
        described = self._session.get_modelmeta().custom_metadata_map.get(LAYOUT)
        self._layout = msgspec.json.decode(described, type=Layout) if described else Layout(())
        kinds = {given.name: given.type for given in self._session.get_inputs()}
        self._type: Any = np.float64 if kinds.get(MATRIX) == "tensor(double)" else np.float32
        taken = {*(name for name in kinds if name != MATRIX or not described), *self._layout.columns}
        known = {given.name: given for given in inputs}
        if not taken <= set(known):
            raise ModelError(f"the ONNX model takes {sorted(taken)}; expected were {list(known)}.")
        dense = set(self._layout.columns)
        self._tensors = [given for given in inputs if given.name in taken and given.name not in dense]
        self._doubles = frozenset(name for name, kind in kinds.items() if kind == "tensor(double)")
        self._dense = [known[name] for name in self._layout.columns]
        self._words = {
            name: _Words((word, float(place)) for place, word in enumerate(listed))
            for name, listed in self._layout.words.items()
        }
        self._numbers = [given.name for given in self._dense if given.type != "string"]  # graphs.dense puts text last
        self._times = [place for place, given in enumerate(self._dense) if given.type == "timestamp"]
        self._look_up = list(self._words.items())
        self._first = self._dense[0].name if self._dense else ""
        self._pack = struct.Struct(f"={len(self._dense)}{'d' if self._type is np.float64 else 'f'}").pack_into
        self._free: dict[int, list[_Buffers]] = {}
        self._shape: tuple[int, ...] | None = None
        if self._dense and not self._tensors:
            self._learn()

    def run(self, columns: Mapping[str, Any]) -> Floats:
        """The model's own output, float64: probabilities of shape (n, k), or values of shape (n,).

        Raises
        ------
        PredictionError : an input is missing or no number, or the model raised.
        """
        import numpy as np

        n = self.rows(columns)
        if self._shape is not None and 0 < n <= self.most:
            return from_tensors(self.task, [np.array(self.few(columns, n), dtype=np.float64)])
        try:
            return from_tensors(self.task, self._session.run([self.output], self.feeds(columns)))
        except Exception as error:
            raise PredictionError(f"the compiled model raised: {str(error).strip().partition(chr(10))[0]}") from error

    def feeds(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """What the graph is fed, by the names of its own inputs."""
        import numpy as np

        found = tensors(self._tensors, columns, doubles=self._doubles)
        if self._dense:
            found[MATRIX] = np.empty((len(self._dense), self.rows(columns)), dtype=self._type)
            self._fill(found[MATRIX], columns)
        return found

    @property
    def bound(self) -> bool:
        """Whether `few` can be called."""
        return self._shape is not None

    def few(self, columns: Mapping[str, Any], n: int) -> list[Any]:
        """What `run` gives for a few rows, as plain lists: the graph's last output as it is.

        Raises
        ------
        PredictionError : an input is missing or no number, or the model raised.
        """
        free = self._free.get(n)
        buffers = free.pop() if free else self._buffers(n)
        if n == 1:
            self._fill_row(buffers, columns)
        else:
            self._fill_rows(buffers, columns)
        try:
            self._session.run_with_iobinding(buffers.bound)
        except Exception as error:
            raise PredictionError(f"the compiled model raised: {str(error).strip().partition(chr(10))[0]}") from error
        found: list[Any] = buffers.out.tolist()
        if n <= self.most:
            self._free.setdefault(n, []).append(buffers)
        return found

    def rows(self, columns: Mapping[str, Any]) -> int:
        """How many rows columns have."""
        name = self._first or (self._tensors[0].name if self._tensors else "")
        return len(_given(columns, name))

    def _learn(self) -> None:
        """See which shape and type the output has. A graph that answers anything but one array is fed plainly."""
        import numpy as np

        seen = []
        for n in (1, 3):
            matrix = np.zeros((len(self._dense), n), dtype=self._type)
            try:
                (found,) = self._session.run([self.output], {MATRIX: matrix})
            except Exception:  # noqa: BLE001  zeros may be no sensible input; then rows are fed plainly
                return
            if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.shape[:1] != (n,):
                return
            seen.append((found.shape[1:], found.dtype.type))
        if seen[0] == seen[1]:
            self._shape, self._answer = seen[0]

    def _buffers(self, n: int) -> _Buffers:
        import numpy as np

        matrix = np.empty((len(self._dense), n), dtype=self._type)
        out = np.empty((n, *(self._shape or ())), dtype=self._answer)
        return _Buffers(self._session, matrix, self.output, out)

    def _fill_row(self, buffers: _Buffers, columns: Mapping[str, Any]) -> None:
        """One row of plain values straight into the buffer; anything unusual takes the general way."""
        try:
            values = [columns[name][0] for name in self._numbers]
            for place in self._times:
                values[place] = encode([values[place]], "timestamp")[0]
            if None in values:
                values = [_NAN if value is None else value for value in values]
            values += [words[columns[name][0]] for name, words in self._look_up]
            self._pack(buffers.row, 0, *values)
        except (struct.error, OverflowError, LookupError, TypeError, ValueError):
            self._fill(buffers.matrix, columns)

    def _fill_rows(self, buffers: _Buffers, columns: Mapping[str, Any]) -> None:
        """As `_fill_row`, column by column."""
        n, size = buffers.matrix.shape[1], buffers.matrix.itemsize
        for place, given in enumerate(self._dense):
            values = columns.get(given.name)
            if type(values) is not list or len(values) != n or given.type == "timestamp":
                self._fill(buffers.matrix, columns, place)
                continue
            try:
                if given.type == "string":
                    words = self._words[given.name]
                    values = [words[value] for value in values]
                elif None in values:
                    values = [_NAN if value is None else value for value in values]
                buffers.column(buffers.row, place * n * size, *values)
            except (struct.error, OverflowError, TypeError):
                self._fill(buffers.matrix, columns, place)

    def _fill(self, matrix: Any, columns: Mapping[str, Any], only: int = -1) -> None:
        """All columns, or one, whatever kind of values they hold."""
        import numpy as np

        for place, given in enumerate(self._dense):
            if only not in (-1, place):
                continue
            values = _given(columns, given.name)
            if given.type == "string":
                known = self._words[given.name]
                matrix[place] = [known[v] for v in (values.tolist() if hasattr(values, "dtype") else values)]
                continue
            numbers = values if hasattr(values, "dtype") else np.array(encode(values, given.type), dtype=np.float64)
            with np.errstate(over="ignore"):  # what is too large for float32 is infinite, as in training
                matrix[place] = numbers


def _given(columns: Mapping[str, Any], name: str) -> Any:
    if name not in columns:
        raise PredictionError(f"the model's input {name!r} is missing; given: {', '.join(sorted(columns))}.")
    return columns[name]
