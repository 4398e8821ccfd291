"""Runs MLServer with its own command line, where optimum asks for parts of torch's old ONNX exporter that are gone.

They are asked for when optimum is imported, and never used: nothing is exported. The processes that MLServer starts run
this too.
"""

import sys
from unittest.mock import MagicMock

import torch.onnx.symbolic_opset14

OPSET = torch.onnx.symbolic_opset14
for part in (
    "_attention_scale",
    "_causal_attention_mask",
    "_onnx_symbolic",
    "_type_utils",
    "jit_utils",
    "symbolic_helper",
):
    if not hasattr(OPSET, part):
        setattr(OPSET, part, MagicMock())

if __name__ == "__main__":
    from mlserver.cli import main  # type: ignore[import-not-found]

    sys.exit(main())
