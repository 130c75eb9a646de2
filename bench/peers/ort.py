"""ONNX Runtime: forward with the RNN operator, generation as one Loop. It does not train."""

from __future__ import annotations

from string import Template
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

from bench.cases import FIRST, GENERATED, Task

VERSIONS = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}

# From ids [T,B] and h [1,B,H] to logits [T*B,V] and h_last [1,B,H].
_LOGITS = """
    x = Gather <axis = 0> (one_hot, ids)
    y, h_last = RNN <hidden_size = $H, activations = ["Tanh"]> (x, W, R, B, "", h)
    hs = Reshape (y, rows)
    logits = Gemm (hs, W_hq, b_q)
"""
_FORWARD = f"""
forward (int64[$T, $N] ids, int64[$tokens] targets, float[1, $N, $H] h) => (float loss) {{
    {_LOGITS}
    loss = SoftmaxCrossEntropyLoss <reduction = "mean"> (logits, targets)
}}
"""
_GENERATE = f"""
generate (int64[1, 1] first, float[1, 1, $H] h0) => (int64[$count, 1, 1] ids) {{
    last, h_end, ids = Loop (count, true, first, h0) <body = step
        (int64 iteration, bool go, int64[1, 1] ids, float[1, 1, $H] h)
        => (bool go_on, int64[1, 1] next, float[1, 1, $H] h_last, int64[1, 1] emitted) {{
        {_LOGITS}
        go_on = Identity (go)
        next = ArgMax <axis = 1, keepdims = 1> (logits)
        emitted = Identity (next)
    }}>
}}
"""


def make(variant: str, task: Task, threads: int, device: str) -> OnnxRuntime:
    return OnnxRuntime(task, threads)


class OnnxRuntime:
    def __init__(self, task: Task, threads: int) -> None:
        X, Y = task.batches[0]
        H = len(task.params[1])
        self._forward = _session(_FORWARD, task, threads)
        self._forward_inputs = {
            "ids": np.ascontiguousarray(X.T),
            "targets": np.ascontiguousarray(Y.T).reshape(-1),
            "h": np.zeros((1, len(X), H), np.float32),
        }
        self._generate = _session(_GENERATE, task, threads)
        self._generate_inputs = {
            "first": np.full((1, 1), FIRST, np.int64),
            "h0": np.zeros((1, 1, H), np.float32),
        }

    def forward(self) -> float:
        return float(self._forward.run(["loss"], self._forward_inputs)[0])

    def generate(self) -> list[int]:
        ids: list[int] = self._generate.run(["ids"], self._generate_inputs)[0].ravel().tolist()
        return ids


def _session(graph: str, task: Task, threads: int) -> Any:
    W_xh, W_hh, b_h, W_hq, b_q = task.params
    (V, H), (N, T) = W_xh.shape, task.batches[0][0].shape
    constants = {
        "one_hot": np.eye(V, dtype=np.float32),
        "W": W_xh.T[None],
        "R": W_hh.T[None],
        "B": np.concatenate([b_h, np.zeros_like(b_h)])[None],
        "W_hq": W_hq,
        "b_q": b_q,
        "rows": [-1, H],
        "count": GENERATED,
        "true": True,
    }
    sizes = Template(graph).substitute(T=T, N=N, H=H, tokens=T * N, count=GENERATED)
    model = parser.parse_model('<ir_version: 9, opset_import: ["" : 17]>' + sizes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, order="C"), name)
        for name, value in constants.items()
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # not every graph uses every constant, which it would warn of
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
