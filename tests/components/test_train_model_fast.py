"""What makes training fast changes nothing else: the order of rows, dropout by random bytes, plain attention."""

import copy
import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_pipeline.components import train_model as step
from tests.components.architectures import make_classifier
from tests.conftest import TRAINING, make_rows, write_parquet

# The order of rows


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 1000, 1001])
def test_every_row_comes_once_an_epoch(rows: int) -> None:
    lengths = [(row * 7) % 40 + 2 for row in range(rows)]
    assert sorted(step.training_order(lengths, 1.0, 16, seed=1)) == list(range(rows))
    assert sorted(step.training_order(lengths, 3.0, 16, seed=1)) == sorted(list(range(rows)) * 3)
    assert len(step.training_order(lengths, 0.5, 16, seed=1)) == max(1, round(rows / 2))
    assert max(Counter(step.training_order(lengths, 2.5, 16, seed=1)).values()) <= 3


def test_the_order_depends_on_the_seed_alone() -> None:
    lengths = list(range(1000))
    order = step.training_order(lengths, 2.0, 16, seed=1)
    random.seed(2)
    state = random.getstate()
    assert step.training_order(lengths, 2.0, 16, seed=1) == order
    assert random.getstate() == state
    assert step.training_order(lengths, 2.0, 16, seed=2) != order


def test_batches_are_of_like_length_and_of_no_order() -> None:
    lengths = [[20, 128][row % 2] for row in range(1603)]
    order = step.training_order(lengths, 1.0, 16, seed=1)
    batches = [[lengths[row] for row in order[at : at + 16]] for at in range(0, 1603, 16)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)
    kinds = [batch[0] for batch in batches]
    assert 20 in kinds[:10] and 128 in kinds[:10] and 20 in kinds[50:60] and 128 in kinds[50:60]
    assert len(batches[-1]) == 3


@given(
    rows=st.integers(1, 400),
    longest=st.sampled_from([3, 20, 500]),
    epochs=st.integers(1, 4) | st.floats(0.01, 4),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_any_order(rows: int, longest: int, epochs: float, batch_size: int, seed: int) -> None:
    lengths = [random.Random(row).randint(2, longest) for row in range(rows)]
    order = step.training_order(lengths, epochs, batch_size, seed)
    assert order == step.training_order(lengths, epochs, batch_size, seed)
    assert len(order) == max(1, round(len(lengths) * epochs))
    assert set(order) <= set(range(len(lengths)))
    pool = batch_size * max(1, min(50, rows // batch_size))
    if rows % pool == 0:  # pools do not go across epochs, and so hold no row twice
        assert all(len(set(order[at : at + pool])) == len(order[at : at + pool]) for at in range(0, len(order), pool))
    for end in {*range(pool, len(order), pool), len(order)}:
        # So far each row has come as often as any other, or once more.
        times = Counter(order[:end])
        assert {times[row] for row in range(len(lengths))} <= {end // len(lengths), math.ceil(end / len(lengths))}
    for start in range(0, len(order), pool):
        here = order[start : start + pool]
        batches = [[lengths[row] for row in here[at : at + batch_size]] for at in range(0, len(here), batch_size)]
        batches.sort(key=lambda batch: (min(batch), max(batch)))
        for one, other in itertools.pairwise(batches):
            assert max(one) <= min(other)


def rows_of(batch: Any) -> list[tuple[int, ...]]:
    """Returns the tokens of a batch's texts, without what pads them."""
    return [
        tuple(ids[mask == 1].tolist()) for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


@pytest.mark.slow
def test_a_training_that_goes_on_takes_the_rows_that_come_next(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [str(number) for number in range(5)]
    write_parquet(tmp_path / "train.parquet", make_rows(50, classes=5))
    options = {**TRAINING, "epochs": 3.0, "batch_size": 8, "device": "cpu", "dtype": "float32"}
    limits = {"max_length": 32, "max_train_rows": 0, "seed": 1}
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr("time.monotonic", iter(range(0, 1_000_000, 100)).__next__)  # long enough for checkpoints
    taken: list[list[tuple[int, ...]]] = []

    def train() -> tuple[Any, Any, int]:
        model, tokenizer = step.load_base_model(str(encoder), labels, 32)
        rows = step.tokenise(str(tmp_path / "train.parquet"), tokenizer, labels, limits, str(tmp_path))
        taken.clear()
        model.register_forward_pre_hook(lambda _, __, batch: taken.append(rows_of(batch)), with_kwargs=True)
        result = step.run_trainer(model, tokenizer, rows, str(tmp_path / "checkpoints"), options)
        return model, rows, result["resumed_from_step"]

    model, rows, resumed = train()
    order = step.training_order(rows["length"][:], 3.0, 8, seed=1)
    expected = [tuple(rows[row]["input_ids"]) for row in order]
    batches = [expected[at : at + 8] for at in range(0, len(expected), 8)]
    assert (resumed, len(batches), len(batches[-1])) == (0, 19, 6)
    assert taken == batches
    assert model.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path / "model")
    assert "eager" not in (tmp_path / "model" / "config.json").read_text()

    last = max((tmp_path / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    (last / "complete").unlink()
    _, _, resumed = train()
    assert 0 < resumed < 19
    assert taken == batches[resumed:]


# Dropout


def quick(share: float) -> Any:
    """Returns a dropout layer as `quick_dropout` puts it in the place of PyTorch's."""
    import torch

    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Dropout(share)))
    step.quick_dropout(model)
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quick_dropout_is_dropout(dtype: str) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Dropout(0.1)), torch.nn.Dropout(0.0))
    step.quick_dropout(model)
    ones = torch.ones(1000, 1001, dtype=getattr(torch, dtype), requires_grad=True)
    torch.manual_seed(1)
    out = model(ones)
    out.sum().backward()
    out = out.detach()
    assert ones.grad is not None and torch.equal(out, ones.grad) and out.dtype == ones.dtype
    zeros = out == 0
    assert abs(float(zeros.double().mean()) - 26 / 256) < 0.002
    # As many in each row and in each column, and neighbours know nothing of each other.
    assert zeros.double().mean(0).std() < 0.012 and zeros.double().mean(1).std() < 0.012
    for apart in (1, 7, 8):
        assert abs(float((zeros[:, apart:] & zeros[:, :-apart]).double().mean()) - (26 / 256) ** 2) < 0.001
    assert abs(float(out.double().mean()) - 1) < 0.005
    torch.manual_seed(1)
    assert torch.equal(model(ones), out)
    assert torch.equal(model.eval()(ones), ones)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.002, 0.1, 0.25, 0.5, 0.9, 0.996, 0.999, 1.0])
def test_any_share_is_dropped_and_made_up_for(share: float) -> None:
    import torch

    numbers = torch.randn(400_003, generator=torch.Generator().manual_seed(0)) + 3
    torch.manual_seed(1)
    out = quick(share)(numbers)
    kept = out != 0
    dropped = round(share * 256) / 256 if 0 < round(share * 256) < 256 else share
    assert abs(dropped - share) <= 1 / 512
    assert abs(float((~kept).double().mean()) - dropped) < 5 * math.sqrt(dropped * (1 - dropped) / len(numbers)) + 1e-9
    if share < 1:
        torch.testing.assert_close(out[kept], numbers[kept] / (1 - dropped))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (8,), (3, 0, 2), (2, 3, 5)])
def test_dropout_of_any_shape(shape: tuple[int, ...]) -> None:
    import torch

    numbers = torch.ones(shape)
    out = quick(0.5)(numbers)
    assert out.shape == numbers.shape and set(out.flatten().tolist()) <= {0.0, 2.0}
    turned = torch.arange(1.0, 61).view(6, 10).T  # not as it lies in memory
    out = quick(0.5)(turned)
    assert torch.equal(out[out != 0], 2 * turned[out != 0])


def test_masks_are_the_seeds_and_each_a_new_one() -> None:
    import torch

    layer, ones = quick(0.1), torch.ones(1000)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append([layer(ones) for _ in range(2)])
    assert torch.equal(masks[0][0], masks[1][0]) and torch.equal(masks[0][1], masks[1][1])
    assert not torch.equal(masks[0][0], masks[2][0])
    assert not torch.equal(masks[0][0], masks[0][1])


# What is computed without dropout


FUSED = ["bert", "distilbert", "roberta", "albert", "electra", "modernbert"]  # those that have it


def padded_batch() -> dict[str, Any]:
    """Returns a batch of texts of very different lengths."""
    import torch

    lengths = torch.tensor([[50], [1], [7], [50], [23], [2]])
    mask = (torch.arange(50) < lengths).long()
    ids = torch.randint(4, 64, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", [*FUSED, "mpnet", "deberta-v2"])
def test_plain_attention_gives_the_same(name: str) -> None:

    found = []
    for plain in (False, True):
        model = make_classifier(name).eval()
        assert (model.config._attn_implementation == "sdpa") == (name in FUSED)
        if plain:
            model.set_attn_implementation("eager")
            assert model.config._attn_implementation == "eager"
        logits = model(**padded_batch()).logits
        logits.logsumexp(dim=1).sum().backward()
        gradients = {key: weights.grad for key, weights in model.named_parameters() if weights.grad is not None}
        found.append((logits.detach(), gradients))
    (fused, of_fused), (plainly, of_plain) = found
    assert (fused - plainly).abs().max() < 1e-4
    assert fused.std(dim=0).min() > 1e-3  # or the texts do not matter
    assert of_fused.keys() == of_plain.keys()
    for key, gradient in of_fused.items():
        assert (gradient - of_plain[key]).abs().max() <= 1e-4 * max(1, float(gradient.abs().max())), key


@pytest.mark.parametrize("name", [*FUSED, "mpnet", "deberta-v2"])
def test_quick_dropout_leaves_evaluation_as_it_is(name: str) -> None:
    import torch

    model = make_classifier(name)
    former = copy.deepcopy(model)
    step.quick_dropout(model)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
    assert layers and not any(type(layer) is torch.nn.Dropout for layer in layers)
    assert [layer.p for layer in layers] == [one.p for one in former.modules() if type(one) is torch.nn.Dropout]
    with torch.inference_mode():
        expected = former.eval()(**padded_batch()).logits
        state = torch.get_rng_state()
        assert torch.equal(model.eval()(**padded_batch()).logits, expected)
        assert torch.equal(torch.get_rng_state(), state)  # and draws nothing
        if any(layer.p for layer in layers):
            assert not torch.equal(model.train()(**padded_batch()).logits, expected)
        assert torch.equal(model.eval()(**padded_batch()).logits, expected)
    assert model.state_dict().keys() == former.state_dict().keys()
