"""A small byte-level BPE tokenizer with a chat template, trained on the texts that its model will learn from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
_SPECIAL = re.compile("|".join(map(re.escape, (PAD, START, END))))

# The assistant's words, and the token that ends its turn, are marked as what it learns to write.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, max_length: int) -> Any:
    """A fast tokenizer that can write any text; ``<|im_end|>`` ends turns and documents.

    Args:
        texts: what to learn merges from; special tokens in them are taken as such.
        vocab_size: at most this many tokens, special ones and the 256 bytes included.
        max_length: what the tokenizer gives as the model's longest input.

    Returns:
        ``PreTrainedTokenizerFast``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Digits stay single, so that numbers are read alike wherever they stand.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_between_special_tokens(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def _between_special_tokens(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from filter(None, _SPECIAL.split(text))
