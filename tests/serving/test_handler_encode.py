"""A long text's tokens: those of the whole text, though its beginning is looked at first."""

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from nlp_pipeline.serving.model import CHARACTERS, Encoder

CORPUS = [
    "the film was superb and the plot was awful, isn't it?  We've seen 12345 films in 2024.",
    "ein Märchen über Größe, naïve café; вот это кино — 电影很好看 映画は素晴らしい 🙂👍",
    "very very   long   scenes\n\n\tand music " * 4,
    *[" " * (1 << power) + "in" for power in range(8)],  # tokenizers of code have tokens for such runs
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def with_ends(tokenizer: Tokenizer) -> Tokenizer:
    """Has a tokenizer put special tokens around a text."""
    pair = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=pair)
    return tokenizer


def word_pieces() -> Tokenizer:
    letters = [chr(code) for code in (*range(33, 127), *map(ord, "电影很好"), 0x1F642)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "the", "##ing"]
    tokenizer = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", AddedToken("<mask>", lstrip=True)])
    return tokenizer


def byte_level() -> Tokenizer:
    """As GPT-4 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def unigram() -> Tokenizer:
    """As XLM-R and ALBERT have it: runs of spaces become one, and NFKC may join what was apart."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )
    return with_ends(tokenizer)


def pieces_of_sentences() -> Tokenizer:
    """As Llama has it: the whole text is one word, whose tokens may depend on all of it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return with_ends(tokenizer)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    make.__name__: functools.cache(make) for make in (word_pieces, byte_level, unigram, pieces_of_sentences)
}


def make_encoder(name: str, max_length: int) -> Encoder:
    encoder = Encoder()
    encoder.prepare(TOKENIZERS[name]().to_str(), max_length, "cut")
    return encoder


WORDS = ["the", "film", "isn't", "12345", "a,b.c", "电影很好看", "naïve", "вот", "İΣς"]
BLANKS = [" ", "     ", " " * 70, " \n ", "\t", "\u00a0", "\u200b", "\r\n", "\u3000"]
COMBINING = ["e\u0301", "\u0308\u0323", "\u1100\u1161\u11a8", "각", "ﬁ", "¨", "½", "\u0600", "\ufeff"]
MARKS = ["🙂", "\U0001f469\u200d\U0001f467", "🇩🇪", "[SEP]", "<mask>", "</s>", "##ing", "▁", "'", "…"]
PIECES = (
    st.sampled_from([*WORDS, *BLANKS])
    | st.sampled_from([*COMBINING, *MARKS])
    | st.integers(1, 200).map(lambda count: "x" * count)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)


@st.composite
def long_texts(draw: st.DrawFn) -> str:
    """Texts of up to thousands of characters: pieces, set apart by spaces or by nothing, over and over."""
    gaps = draw(st.sampled_from([[" "], ["", " "], ["", " ", "  ", "\n"], [""]]))
    pieces = [piece + draw(st.sampled_from(gaps)) for piece in draw(st.lists(PIECES, min_size=1, max_size=15))]
    return draw(st.sampled_from(["", " ", "the film "])) + "".join(pieces) * draw(st.integers(1, 12))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=long_texts(), max_length=st.sampled_from([3, 4, 8, 16, 32]))
@example(text="a" + " " * 1000 + "b", max_length=4)
@example(text="a " * 4 + " " * 1000, max_length=8)
@example(text="the film" + "\u0301 " * 500, max_length=8)
@example(text="x" * 40 + " film" * 100, max_length=4)
@example(text=" " + "x" * 1000, max_length=4)
@settings(max_examples=80, deadline=None)
def test_a_long_texts_tokens_are_those_of_the_whole(name: str, text: str, max_length: int) -> None:
    encoder = make_encoder(name, max_length)
    found, whole = encoder.encode(text), encoder.tokenizer.encode(text)
    assert (found.ids, found.type_ids) == (whole.ids, whole.type_ids)
    assert len(found.ids) <= max_length


@pytest.mark.parametrize("name", TOKENIZERS)
def test_of_a_long_text_only_the_beginning_is_looked_at(name: str) -> None:
    """But where all of a text is one word to the tokenizer: then the whole is looked at."""
    encoder: Any = make_encoder(name, 32)
    lengths: list[int] = []

    def encode(text: str) -> Any:
        lengths.append(len(text))
        return tokenizer.encode(text)

    tokenizer, encoder.tokenizer = encoder.tokenizer, types.SimpleNamespace(encode=encode)
    encoder.encode("the film was very long and " * 1000)
    assert 32 < lengths[0] <= CHARACTERS * 32
    assert lengths[1:] == ([27_000] if name == "pieces_of_sentences" else [])
    lengths.clear()
    encoder.encode("the film")
    assert lengths == [8]
