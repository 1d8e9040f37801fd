"""The built-in task's tokenizer: one token a symbol, in Hugging Face format."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from rlif.tasks.arithmetic import ALPHABET

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer of the task's alphabet, with padding (left), end-of-sequence and unknown tokens.

    `decode(encode(text)) == text` for every text over the alphabet; the answer marker `"#### "` is one token. Any
    other character becomes the unknown token. Nothing is added at either end of a text.
    """
    vocabulary = {token: index for index, token in enumerate((PAD, EOS, UNK, *ALPHABET))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    # The marker first, then any single character, line breaks included.
    tokenizer.pre_tokenizer = Split(Regex(r"#### |[\s\S]"), behavior="isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
