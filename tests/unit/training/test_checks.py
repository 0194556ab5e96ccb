"""What a collator of the user's may do to a batch."""

from __future__ import annotations

import pytest
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sage_dpo.errors import ConfigError
from sage_dpo.training.checks import check_collated

EXAMPLES = [
    {"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "rejected_ids": [6]},
    {"prompt_ids": [7, 8], "chosen_ids": [9], "rejected_ids": [10, 11]},
]


def test_padding_is_no_change_whatever_the_padding_id():
    for pad in (0, 3):
        check_collated(DataCollatorForPreference(pad_token_id=pad, pad_to_multiple_of=8)(EXAMPLES), EXAMPLES)


def test_a_collator_that_cuts_or_swaps_is_refused():
    with pytest.raises(ConfigError, match=r"changes 3 of 4 completions \(first: number 0 of the batch\)"):
        check_collated(DataCollatorForPreference(pad_token_id=0, max_length=3)(EXAMPLES), EXAMPLES)
    with pytest.raises(ConfigError, match="changes 4 of 4"):
        check_collated(DataCollatorForPreference(pad_token_id=0)(EXAMPLES[::-1]), EXAMPLES)
    with pytest.raises(ConfigError, match="leave data_collator out"):
        check_collated(DataCollatorForPreference(pad_token_id=0)(EXAMPLES[:1]), EXAMPLES)
