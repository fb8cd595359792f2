"""A small byte-level BPE tokenizer trained on the spot."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
_HEADERS = 100_000  # copies: more than any pair of letters has in the texts
_SPECIAL = re.compile("|".join(map(re.escape, (PAD, START, END))))

# The template marks the assistant's words, and the token that ends its turn, as what the model learns.
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


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a fast tokenizer that can write any text; ``<|im_end|>`` ends turns and documents.

    Special tokens in the texts stay special tokens. The size of the vocabulary counts these and the 256 bytes, too, and
    ``max_length`` is the model's longest input, as the tokenizer states it.
    """
    tokenizer = Tokenizer(models.BPE())
    # Digits stay single tokens, so that numbers are read alike wherever they stand.
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
    # The words that begin each turn are learnt first, so that a turn costs few tokens beside its text.
    headers = ["user", "assistant", "system"] * _HEADERS
    tokenizer.train_from_iterator(itertools.chain(headers, _between_special_tokens(texts)), trainer)
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
