"""Where a model is trained, in which number format, and what makes that fast."""

import os
from dataclasses import dataclass
from typing import Any

import torch

# Has tests train in so many processes where there is no GPU.
PROCESSES = "NLP_PIPELINE_PROCESSES"


@dataclass(frozen=True)
class Device:
    """The choice of a device, "cuda" or "cpu", and why."""

    device: str
    dtype: str  # "bfloat16" or "float32": of the matrix products; weights and optimiser stay in float32
    reason: str


def count_processes() -> int:
    """Returns how many processes train in a pod: one for each GPU, or one without a GPU."""
    return int(os.environ.get(PROCESSES, 0)) or torch.cuda.device_count() or 1


def choose_device() -> Device:
    """Prefers a GPU to the CPU, and bfloat16 where the hardware computes in it."""
    device, name = "cpu", "no GPU; the CPU"
    has_bfloat16 = any(torch.cpu.get_capabilities().get(feature) for feature in ("amx_bf16", "avx512_bf16"))
    if torch.cuda.is_available():
        device, name = "cuda", torch.cuda.get_device_name()
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if has_bfloat16:
        return Device(device, "bfloat16", f"{name} has bfloat16")
    return Device(device, "float32", f"{name} has no bfloat16")


class FastDropout(torch.nn.Dropout):
    """Dropout by random bytes.

    PyTorch draws a random number for each activation, one after the other: an eighth of a step. This draws 64 bits for
    eight activations, which drops a share that is a multiple of 1/256: 0.1016 for 0.1.
    """

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        """Sets a share `p` of the activations to 0, and scales the others so that the mean stays."""
        dropped = round(self.p * 256)
        if not self.training or dropped in (0, 256):
            return super().forward(activations)
        count = activations.numel()
        words = torch.empty(count // 8 + 1, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[:count].view(activations.shape) >= dropped
        return activations * kept * (256 / (256 - dropped))


def speed_up_on_cpu(model: Any) -> None:
    """Has a model compute the same in a way that is faster on a CPU, in place."""
    # PyTorch's fused attention is the fastest on a GPU; on a CPU its backward pass is slower than plain products.
    model.set_attn_implementation("eager")
    for layer in model.modules():
        if type(layer) is torch.nn.Dropout:
            layer.__class__ = FastDropout
