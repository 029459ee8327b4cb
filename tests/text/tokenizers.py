"""Tokenizers of the kinds that language models come with, learned from a handful of titles."""

from __future__ import annotations

import json
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from groundrec.text.prompts import load_template, template_names
from groundrec.text.tokens import train_tokenizer

__all__ = ["KINDS", "TITLES"]

TITLES = (
    "Alien",
    "Alien 3",
    "Alien 3 (1992)",
    "Aliens",
    "A",
    "A B",
    "AB",
    'The "Best" Film',
    '"',
    '""',
    'Ends with "',
    "Ends with",
    "L'été, l'hiver",
    "L’été, l’hiver",
    "東京物語",
    "東京",
    "🎬 Emoji 🎥",
    "🎬",
    "cafe\u0301",
    "café",
    "{title}",
    "</s>",
    "Alien</s>",
    "### Response:",
    "Seven (Se7en) (1995)",
    "100% & <more>",
    "-1",
    "_",
)
SPECIAL = ["<unk>", "<s>", "</s>"]


def corpus() -> list[str]:
    """Return titles as they stand in every template."""
    templates = [load_template(name) for name in template_names()]
    plain = [title for title in TITLES if "</s>" not in title] * 3
    return [t.text([title, title]) + t.answer_text(title) for t in templates for title in plain]


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def ours() -> PreTrainedTokenizerBase:
    """Byte-level BPE without a regular expression: merges may cross blanks."""
    return train_tokenizer(corpus(), 600)


def like_gpt2(add_prefix_space: bool) -> PreTrainedTokenizerBase:
    """Byte-level BPE inside words, a blank belonging to the word behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return wrapped(tokenizer)


def like_llama2() -> PreTrainedTokenizerBase:
    """SentencePiece-like BPE: a blank is `▁`, one is put before every text, unknown characters
    become bytes.
    """
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    ascii_only = [
        "".join(c for c in text if " " <= c < "\x7f") for text in corpus()
    ]  # a line break is a byte, too
    learner.train_from_iterator(
        ascii_only, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    )
    state = json.loads(learner.to_str())
    vocabulary = state["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    state["model"].update(byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(tokenizer)


def unigram() -> PreTrainedTokenizerBase:
    """SentencePiece-like unigram model behind a Metaspace pre-tokenizer."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    alphabet = sorted({c for text in (*corpus(), *TITLES) for c in text})
    trainer = trainers.UnigramTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        unk_token="<unk>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return wrapped(tokenizer)


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "ours": ours,
    "GPT-2": lambda: like_gpt2(False),
    "GPT-2 with a blank in front": lambda: like_gpt2(True),
    "Llama 2": like_llama2,
    "unigram": unigram,
}
