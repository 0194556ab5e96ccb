"""A key-value cache of slots: memory set aside once, rows that come and go.

transformers' `DynamicCache` copies every layer's keys and values at each step to append one column. Here a step writes
its column in place; only once the columns are used up is the part still in use copied, to a new place.

    column   first ............................ end - 1 | end
    slot 0      .  .  P  P  P  P  x  x  x  x  x  x      |  the column that the next step writes, in all slots
    slot 1      .  .  .  .  .  .  .  P  P  P  P  x      |

All slots write the same column, so that a row that came later begins further to the right: rows are padded on the left,
as `generate` pads them, and masks of sliding windows hold. Every layer keeps all columns, those with a window too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

_SPARE_SHARE, _LEAST_SPARE = 4, 32  # free columns after a move: a quarter of those in use, at least 32


@dataclass(slots=True)
class _Columns:
    """What all layers share: slots 0 to `rows` - 1 are taken, columns `first` to `end` - 1 in use."""

    rows: int = 0
    first: int = 0
    end: int = 0


class _SlotLayer(CacheLayerMixin):
    """One layer; `states` are its keys and its values, `[slots, heads, columns, head size]` each."""

    def __init__(self, columns: _Columns, *, is_sliding: bool) -> None:
        super().__init__()
        self.is_sliding = is_sliding
        self.states: list[Tensor] = []
        self._columns = columns

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("rows are inserted before a step")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one column of the taken slots; return their columns in use, the new one included."""
        rows, first, end = self._columns.rows, self._columns.first, self._columns.end
        for states, new in zip(self.states, (key_states, value_states), strict=True):
            states[:rows, :, end : end + 1] = new
        keys, values = (states[:rows, :, first : end + 1] for states in self.states)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._columns.end - self._columns.first

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The key-value cache of a model whose rows are decoded together but begin and end at different times.

    Args:
        config: of the model.
        slots: most rows at once.
    """

    def __init__(self, config: Any, slots: int) -> None:
        self._columns = _Columns()
        self._slots = slots
        self._capacity = 0
        layers: Any = DynamicCache(config=config).layers
        self._slot_layers = [_SlotLayer(self._columns, is_sliding=layer.is_sliding) for layer in layers]
        super().__init__(layers=[*self._slot_layers])

    @property
    def has_windows(self) -> bool:
        """Whether a layer sees only a window of columns, so that nothing may stand between those of a row."""
        return any(layer.is_sliding for layer in self._slot_layers)

    @property
    def is_full(self) -> bool:
        """Whether no column is left for another step."""
        return self._columns.end >= self._capacity

    def insert(self, prefix: DynamicCache, copies: Tensor, padding: Tensor, shared: int) -> None:
        """Put rows into the next free slots, so that they end where the others do.

        Args:
            prefix: their keys and values, `[M, heads, P, head size]` a layer: `shared` columns, padding, the rest.
            copies: `[R]` the row of `prefix` that each new row gets.
            padding: `[R]` columns of padding in each new row, which are moved before the shared ones.
            shared: columns that are equal in all rows.
        """
        columns, width = self._columns, prefix.get_seq_length()
        if not columns.rows:
            columns.first = columns.end
        layers: Any = prefix.layers
        sources = [(layer.keys, layer.values) for layer in layers]
        if columns.end < width or self.is_full:
            self._move(max(width, columns.end - columns.first), sources)
        rows, used = slice(columns.rows, columns.rows + len(copies)), slice(columns.end - width, columns.end)
        slots = torch.arange(rows.start, rows.stop, device=copies.device)[:, None]
        places = used.start + padding[:, None] + torch.arange(shared, device=copies.device)
        for layer, source in zip(self._slot_layers, sources, strict=True):
            for states, new in zip(layer.states, source, strict=True):
                states[rows, :, used] = new[copies]
                if shared:
                    states[slots, :, places] = new[:1, :, :shared].transpose(1, 2)
        columns.rows = rows.stop
        columns.first = min(columns.first, used.start)

    def open_column(self, longest: int) -> None:
        """Prepare a step: make room for its column, and leave out columns before the `longest` cached row."""
        self._columns.first = self._columns.end - longest
        if self.is_full:
            self._move(longest, [layer.states for layer in self._slot_layers])

    def close_column(self) -> None:
        """Count the column that a step has written."""
        self._columns.end += 1

    def drop(self, holes: list[int], movers: list[int]) -> None:
        """Free the last slots, after those of `movers`, which are among them, took the places of `holes`."""
        columns = self._columns
        used = slice(columns.first, columns.end)
        for layer in self._slot_layers if movers else ():
            for states in layer.states:
                states[holes[: len(movers)], :, used] = states[movers, :, used]
        columns.rows -= len(holes)

    def _move(self, end: int, like: Sequence[Sequence[Tensor]]) -> None:
        """Set new memory aside and move the columns in use there, so that they end before column `end`.

        Args:
            end: at least the number of columns in use.
            like: show the shapes, types and devices of each layer's states.
        """
        columns, width = self._columns, self._columns.end - self._columns.first
        self._capacity = end + max(end // _SPARE_SHARE, _LEAST_SPARE)
        for layer, shown in zip(self._slot_layers, like, strict=True):
            for place, states in enumerate(shown):
                # Zeros, not any values: what the mask leaves out is multiplied by 0, and must be finite.
                moved = states.new_zeros((self._slots, states.shape[1], self._capacity, states.shape[3]))
                if columns.rows:
                    used = layer.states[place][: columns.rows, :, columns.first : columns.end]
                    moved[: columns.rows, :, end - width : end] = used
                layer.states[place : place + 1] = [moved]
        columns.first, columns.end = end - width, end
