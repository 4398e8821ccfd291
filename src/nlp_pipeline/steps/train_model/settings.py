"""What `train_model` can be told."""

from dataclasses import dataclass

from nlp_pipeline.parameters import COUNT, POSITIVE, Range, Settings, one_of, parameter

BELOW_1: Range = (lambda value: 0 <= value < 1, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """What is fine-tuned, and how."""

    base_model: str = parameter(
        "distilbert/distilbert-base-uncased",
        "Encoder to fine-tune: a Hugging Face hub id, or a folder with safetensors.",
        (lambda value: value.strip() != "", "a Hugging Face hub id or a folder"),
    )
    epochs: float = parameter(2.0, "Passes over the rows.", (lambda value: 0 < value < float("inf"), "above 0"))
    learning_rate: float = parameter(
        5e-5,
        "Peak learning rate; it falls linearly to 0 after the warm-up.",
        (lambda value: 0 < value < 1, "between 0 and 1, such as 5e-5"),
    )
    batch_size: int = parameter(32, "Rows per training step.", POSITIVE)
    max_length: int = parameter(
        128,
        "Tokens that the model reads at once; of longer texts as long_texts says.",
        (lambda value: value >= 3, "3 or more, a word between two special tokens, and no more than the encoder reads"),
    )
    long_texts: str = parameter(
        "cut",
        "Of longer texts: cut them, head_tail (their beginning and end), or windows (8 parts at most, and their mean).",
        one_of("cut", "head_tail", "windows"),
    )
    weight_decay: float = parameter(0.01, "Weight decay of AdamW.", BELOW_1)
    warmup_share: float = parameter(0.06, "Share of the training steps in which the learning rate rises.", BELOW_1)
    max_train_rows: int = parameter(0, "Train on this many rows, chosen at random; 0 for all.", COUNT)
    max_steps: int = parameter(0, "Stop after this many training steps; 0 for no cap.", COUNT)
