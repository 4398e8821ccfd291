"""Tiny classifiers of the architectures that people fine-tune, with weights made at random."""

from typing import Any


def configurations() -> dict[str, Any]:
    """Returns a configuration of each architecture, and of those that read more than a text's first token."""
    import transformers as t

    common: dict[str, Any] = {"vocab_size": 64, "num_labels": 3, "pad_token_id": 0}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, **common}
    # Of BERT's kin one layer does: the export takes seconds a layer.
    one = {**sizes, "num_hidden_layers": 1}
    special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, **sizes}
    return {
        "bert": t.BertConfig(**sizes),
        "distilbert": t.DistilBertConfig(dim=32, hidden_dim=64, n_layers=1, n_heads=2, **common),
        "roberta": t.RobertaConfig(max_position_embeddings=80, **one),
        "albert": t.AlbertConfig(embedding_size=16, **sizes),
        "electra": t.ElectraConfig(embedding_size=16, **one),
        "mpnet": t.MPNetConfig(max_position_embeddings=80, **one),
        "deberta-v2": t.DebertaV2Config(relative_attention=True, pos_att_type=["p2c", "c2p"], **one),
        "modernbert": t.ModernBertConfig(classifier_pooling="cls", **special),
        "modernbert, mean": t.ModernBertConfig(classifier_pooling="mean", **special | {"num_hidden_layers": 1}),
    }


def make_classifier(name: str) -> Any:
    """Returns a classifier of an architecture, the same each time."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(configurations()[name])
    with torch.no_grad():
        for weights in model.parameters():
            # New weights are so small that the texts would hardly matter, but for ModernBERT's.
            weights.mul_(8 if weights.ndim > 1 and "modernbert" not in name else 1)
    return model
