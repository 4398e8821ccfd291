"""Where a model is trained; dropout by random bytes and plain attention change nothing but the time it takes."""

import copy
import math
from typing import Any

import pytest
import torch

from nlp_pipeline.steps.train_model.device import choose_device, speed_up_on_cpu
from tests.steps.archive_model.architectures import make_classifier

FUSED = ["bert", "distilbert", "roberta", "albert", "electra", "modernbert"]  # architectures with fused attention


@pytest.mark.parametrize(
    ("gpu", "bf16", "features", "device", "dtype", "reason"),
    [
        (True, True, [], "cuda", "bfloat16", "a GPU computes in bfloat16"),
        (True, False, ["amx_bf16"], "cuda", "float32", "a GPU has no bfloat16"),
        (False, False, ["amx_bf16"], "cpu", "bfloat16", "no GPU; the CPU has amx_bf16"),
        (False, False, ["avx512_bf16"], "cpu", "bfloat16", "no GPU; the CPU has avx512_bf16"),
        (False, False, [], "cpu", "float32", "no GPU; the CPU has neither"),
    ],
)
def test_the_device_is_chosen_with_its_reason(
    gpu: bool,
    bf16: bool,
    features: list[str],
    device: str,
    dtype: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True))
    chosen = choose_device()
    assert (chosen.device, chosen.dtype) == (device, dtype) and chosen.reason.startswith(reason)


class Network(torch.nn.Sequential):
    """Layers that take what every transformers model takes."""

    def set_attn_implementation(self, name: str) -> None:
        assert name == "eager"


def fast(*shares: float) -> Network:
    """Returns dropout layers, one after the other, the first of them nested, that were made fast."""
    model = Network(torch.nn.Sequential(*(torch.nn.Dropout(share) for share in shares)))
    speed_up_on_cpu(model)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_dropout_is_dropout(dtype: torch.dtype) -> None:
    model = fast(0.1, 0.0)
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
    assert abs(float(out.double().mean()) - 1) < 0.005
    assert not torch.equal(model(ones), out)
    torch.manual_seed(1)
    assert torch.equal(model(ones), out)
    assert torch.equal(model.eval()(ones), ones)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.002, 0.1, 0.25, 0.5, 0.9, 0.996, 0.999, 1.0])
def test_any_share_is_dropped_and_made_up_for(share: float) -> None:
    numbers = torch.randn(400_003, generator=torch.Generator().manual_seed(0)) + 3
    torch.manual_seed(1)
    out = fast(share)(numbers)
    kept = out != 0
    dropped = round(share * 256) / 256 if 0 < round(share * 256) < 256 else share
    assert abs(dropped - share) <= 1 / 512
    assert abs(float((~kept).double().mean()) - dropped) < 5 * math.sqrt(dropped * (1 - dropped) / len(numbers)) + 1e-9
    if share < 1:
        torch.testing.assert_close(out[kept], numbers[kept] / (1 - dropped))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (8,), (3, 0, 2), (2, 3, 5)])
def test_dropout_of_any_shape(shape: tuple[int, ...]) -> None:
    out = fast(0.5)(torch.ones(shape))
    assert out.shape == shape and set(out.flatten().tolist()) <= {0.0, 2.0}


def test_dropout_of_a_transposed_tensor() -> None:
    transposed = torch.arange(1.0, 61).view(6, 10).T
    out = fast(0.5)(transposed)
    assert torch.equal(out[out != 0], 2 * transposed[out != 0])


def padded_batch() -> dict[str, Any]:
    """Returns a batch of texts of very different lengths."""
    lengths = torch.tensor([[50], [1], [7], [50], [23], [2]])
    mask = (torch.arange(50) < lengths).long()
    ids = torch.randint(4, 64, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", [*FUSED, "mpnet", "deberta-v2"])
def test_logits_and_gradients_without_dropout_stay(name: str) -> None:
    found = []
    original = make_classifier(name).eval()
    assert (original.config._attn_implementation == "sdpa") == (name in FUSED)
    faster = copy.deepcopy(original)
    speed_up_on_cpu(faster)
    assert faster.config._attn_implementation == "eager"
    for model in (original, faster):
        logits = model(**padded_batch()).logits
        logits.logsumexp(dim=1).sum().backward()
        gradients = {key: weights.grad for key, weights in model.named_parameters() if weights.grad is not None}
        found.append((logits.detach(), gradients))
    (logits, gradients), (fast_logits, fast_gradients) = found
    assert (logits - fast_logits).abs().max() < 1e-4
    assert logits.std(dim=0).min() > 1e-3  # or the texts do not matter
    assert gradients.keys() == fast_gradients.keys()
    for key, gradient in gradients.items():
        assert (gradient - fast_gradients[key]).abs().max() <= 1e-4 * max(1, float(gradient.abs().max())), key


@pytest.mark.parametrize("name", [*FUSED, "mpnet", "deberta-v2"])
def test_all_dropout_of_a_model_becomes_fast(name: str) -> None:
    model = make_classifier(name)
    shares = [layer.p for layer in model.modules() if type(layer) is torch.nn.Dropout]
    weights = model.state_dict().keys()
    speed_up_on_cpu(model)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
    assert shares and [layer.p for layer in layers] == shares
    assert not any(type(layer) is torch.nn.Dropout for layer in layers)
    assert model.state_dict().keys() == weights
    with torch.inference_mode():
        expected = model.eval()(**padded_batch()).logits
        if any(shares):
            assert not torch.equal(model.train()(**padded_batch()).logits, expected)
        state = torch.get_rng_state()
        assert torch.equal(model.eval()(**padded_batch()).logits, expected)
        assert torch.equal(torch.get_rng_state(), state)
