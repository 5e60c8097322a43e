"""Backends: what makes of a module of tensors to tensors a function that does the same, faster.

*torch* leaves everything as it is, so that pictures are those of the diffusers pipeline to the last bit. *openvino*
(https://docs.openvino.ai, Intel's library for inference on CPUs) computes in the precision that the CPU is best at,
which is bfloat16 where there are units for it, so that its pictures are those up to rounding. *inductor* is
``torch.compile`` with CUDA graphs.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sae.errors import FeaturebrushError, unknown

Function = Callable[..., tuple[Tensor, ...]]
Compile = Callable[[nn.Module], Function]

_log = logging.getLogger(__name__)


class OpenVino:
    """A module as compiled by OpenVINO: once for each set of shapes, at the first call with them.

    The weights are those at that time. If OpenVINO cannot compile the module, a warning says so and the module itself
    is called.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self._requests: dict[tuple[torch.Size, ...], Any] = {}

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        key = tuple(tensor.shape for tensor in tensors)
        if key not in self._requests:
            self._requests[key] = self._compile(tensors)
        request = self._requests[key]
        if request is None:
            return self.module(*tensors)
        arrays = [tensor.contiguous().numpy() for tensor in tensors]
        found = request.infer(arrays, share_inputs=True, share_outputs=True)
        # what is shared is overwritten by the next call
        return tuple(torch.from_numpy(np.array(array)) for array in found.to_tuple())

    def _compile(self, tensors: tuple[Tensor, ...]) -> Any:
        try:
            return _request(self.module, tensors)
        except Exception as error:
            _log.warning("OpenVINO cannot compile a part of the model, which goes on without it: %s", error)
            return None


def _request(module: nn.Module, tensors: tuple[Tensor, ...]) -> Any:
    import openvino as ov
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing, that shapes become constants: here they are
        traced = torch.jit.trace(module, tensors, check_trace=False)
    # what openvino.convert_model does, but for its telemetry
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # which must outlive the conversion
    model = frontend.convert(frontend.load(decoder))
    model.reshape({i: ov.PartialShape(list(tensor.shape)) for i, tensor in enumerate(tensors)})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return ov.compile_model(model, "CPU", settings).create_infer_request()


def _inductor(module: nn.Module) -> Function:
    return torch.compile(module, mode="reduce-overhead", dynamic=False)


BACKENDS: dict[str, Compile | None] = {"torch": None, "openvino": OpenVino, "inductor": _inductor}


def backend(name: str, device: torch.device) -> Compile | None:
    """What the backend of that name compiles with for ``device``; None for torch as it is.

    *auto* is openvino on a CPU if it is installed, else torch. Raises ``FeaturebrushError`` for a name that is not
    known, and for a backend that is not installed or does not work on ``device``.
    """
    if name == "auto":
        name = "openvino" if device.type == "cpu" and importlib.util.find_spec("openvino") else "torch"
    if name not in BACKENDS:
        raise unknown("backend", name, ("auto", *BACKENDS))
    if name == "openvino" and device.type != "cpu":
        raise FeaturebrushError(f"the backend 'openvino' is for the CPU, not for {str(device)!r}; try 'torch'")
    if name == "openvino" and not importlib.util.find_spec("openvino"):
        raise FeaturebrushError("the backend 'openvino' is not installed: pip install openvino")
    if name == "inductor" and device.type != "cuda":
        raise FeaturebrushError(f"the backend 'inductor' is for CUDA, not for {str(device)!r}; try 'openvino'")
    return BACKENDS[name]
