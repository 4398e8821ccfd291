"""Where a model is trained; dropout by random bytes and plain attention change nothing but the time it takes."""

import copy
import math
from typing import Any

import pytest
import torch

from nlp_pipeline.steps.train_model.device import Device, choose_device, speed_up_on_cpu
from tests.steps.archive_model.architectures import make_classifier

FUSED = ["bert", "distilbert", "modernbert"]  # architectures with fused attention


@pytest.mark.parametrize(
    ("gpu_has_bf16", "features", "chosen"),
    [
        (True, [], Device("cuda", "bfloat16", "a GPU has bfloat16")),
        (False, ["amx_bf16"], Device("cuda", "float32", "a GPU has no bfloat16")),
        (None, ["avx512_bf16"], Device("cpu", "bfloat16", "no GPU; the CPU has bfloat16")),
        (None, [], Device("cpu", "float32", "no GPU; the CPU has no bfloat16")),
    ],
)
def test_the_device_is_chosen_with_its_reason(
    gpu_has_bf16: bool | None, features: list[str], chosen: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_has_bf16 is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_has_bf16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True))
    assert choose_device() == chosen


class Network(torch.nn.Sequential):
    """Layers that take what every transformers model takes."""

    def set_attn_implementation(self, name: str) -> None:
        assert name == "eager"


def fast_dropout(share: float) -> Network:
    model = Network(torch.nn.Sequential(torch.nn.Dropout(share)))
    speed_up_on_cpu(model)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_dropout_is_dropout(dtype: torch.dtype) -> None:
    model = fast_dropout(0.1)
    ones = torch.ones(1000, 1001, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    out = model(ones)
    out.sum().backward()
    out = out.detach()
    assert ones.grad is not None and torch.equal(out, ones.grad) and out.dtype == dtype
    zeros = out == 0
    assert abs(float(zeros.double().mean()) - 26 / 256) < 0.002
    # As many in each row and in each column, and neighbours are independent.
    assert zeros.double().mean(0).std() < 0.012 and zeros.double().mean(1).std() < 0.012
    for apart in (1, 7, 8):
        assert abs(float((zeros[:, apart:] & zeros[:, :-apart]).double().mean()) - (26 / 256) ** 2) < 0.001
    assert not torch.equal(model(ones), out)
    torch.manual_seed(1)
    assert torch.equal(model(ones), out)
    assert torch.equal(model.eval()(ones), ones)


@pytest.mark.parametrize("share", [0.001, 0.25, 1.0])
def test_any_share_is_dropped_and_made_up_for(share: float) -> None:
    numbers = torch.randn(100_003, generator=torch.Generator().manual_seed(0)) + 3
    torch.manual_seed(1)
    out = fast_dropout(share)(numbers)
    kept = out != 0
    dropped = round(share * 256) / 256 if 0 < round(share * 256) < 256 else share
    assert abs(float((~kept).double().mean()) - dropped) < 5 * math.sqrt(dropped * (1 - dropped) / len(numbers)) + 1e-9
    if share < 1:
        torch.testing.assert_close(out[kept], numbers[kept] / (1 - dropped))
    assert torch.isfinite(out).all()


def test_dropout_of_any_shape_and_layout() -> None:
    for ones in (*map(torch.ones, [(0,), (1,), (8,), (3, 0, 2), (2, 3, 5)]), torch.ones(2, 3, 6).movedim(-1, 0)):
        out = fast_dropout(0.5)(ones)
        assert out.shape == ones.shape and set(out.flatten().tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("name", [*FUSED, "deberta-v2"])
def test_a_faster_model_computes_the_same(name: str) -> None:
    lengths = torch.tensor([[50], [1], [7], [50], [23], [2]])
    mask = (torch.arange(50) < lengths).long()
    ids = torch.randint(4, 64, mask.shape, generator=torch.Generator().manual_seed(0))
    batch: dict[str, Any] = {"input_ids": ids * mask, "attention_mask": mask}
    model = make_classifier(name).eval()
    faster = copy.deepcopy(model)
    speed_up_on_cpu(faster)
    assert (model.config._attn_implementation == "sdpa") == (name in FUSED)
    assert faster.config._attn_implementation == "eager"
    layers = [[layer for layer in one.modules() if isinstance(layer, torch.nn.Dropout)] for one in (model, faster)]
    assert layers[0] and [layer.p for layer in layers[0]] == [layer.p for layer in layers[1]]
    assert not any(type(layer) is torch.nn.Dropout for layer in layers[1])

    state = torch.get_rng_state()
    logits, fast_logits = (one(**batch).logits for one in (model, faster))
    assert torch.equal(torch.get_rng_state(), state)
    assert (logits - fast_logits).abs().max() < 1e-4
    assert logits.std(dim=0).min() > 1e-3  # or the texts do not matter
    for found in (logits, fast_logits):
        found.logsumexp(dim=1).sum().backward()
    for (key, weights), fast_weights in zip(model.named_parameters(), faster.parameters(), strict=True):
        if weights.grad is not None:
            difference = (weights.grad - fast_weights.grad).abs().max()
            assert difference <= 1e-4 * max(1, float(weights.grad.abs().max())), key
    if any(layer.p for layer in layers[1]):
        assert not torch.equal(faster.train()(**batch).logits, fast_logits)
