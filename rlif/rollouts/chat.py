"""Conversations as the text that a chat model was trained to continue."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rlif.data.prompts import Message
from rlif.errors import UserError


def apply_chat_template(
    content: str | Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, system_prompt: str | None, where: str
) -> str:
    """Write a conversation as text, special tokens included, up to where the assistant's answer begins.

    Args:
        content: messages, or the text of a single one by the user.
        tokenizer: whose template to use.
        system_prompt: a message before all others.
        where: which prompt this is, for error messages.

    Raises:
        UserError: the tokenizer has no template, the template refuses the conversation, or that has a system message
            of its own beside `system_prompt`.
    """
    if tokenizer.chat_template is None:
        raise UserError(f"{where} is a conversation, but the model's tokenizer has no chat template")
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else list(content)
    if system_prompt is not None:
        if messages[0]["role"] == "system":
            raise UserError(f"system_prompt: {where} begins with a system message of its own, expected none")
        messages = [{"role": "system", "content": system_prompt}, *messages]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates are programs: they raise what they like
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: the tokenizer's chat template refuses the conversation: {reason}") from error
