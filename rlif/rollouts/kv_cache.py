"""A KV cache whose length is known in advance.

transformers' dynamic layers concatenate at every token, which copies the whole past each time. Here a token is written
into its place in a buffer. Unlike with the static layers, attention sees only the part that is filled, so that neither
the mask nor the work extends over tokens that do not exist yet.
"""

from __future__ import annotations

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class ReservedLayer(DynamicLayer):
    """Keys and values of one attention layer, (N, heads, S, head_dim), with room for `max_length` tokens."""

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the states of new tokens; return those of all tokens so far, as views."""
        past = self.get_seq_length()
        if past == 0:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            batch, heads, _, key_dim = key_states.shape
            self.key_buffer = key_states.new_empty(batch, heads, self.max_length, key_dim)
            self.value_buffer = value_states.new_empty(batch, heads, self.max_length, value_states.shape[-1])
        end = past + key_states.shape[-2]
        self.key_buffer[:, :, past:end] = key_states
        self.value_buffer[:, :, past:end] = value_states
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def reorder_cache(self, rows: Tensor) -> None:
        """Continue with these (N',) rows of the batch, in this order; a row may come more than once."""
        keys, values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        self.is_initialized = False
        self.update(keys, values)


def reserved_cache(config: PreTrainedConfig, max_length: int) -> DynamicCache:
    """Make the cache that such a model needs, its full-attention layers with room for `max_length` tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer(max_length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
