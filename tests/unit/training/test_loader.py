"""How long an epoch is, and how many tickets it has."""

from __future__ import annotations

import pytest

from sage_dpo.training.loader import steps_per_epoch, ticket_loader


@pytest.mark.parametrize(
    ("pairs", "keep", "keep_ratio", "whole", "begun"),
    [(40, 8, 0.5, 2, 3), (48, 8, 0.5, 3, 3), (10, 8, 0.5, 1, 1), (40, 8, 1.0, 5, 5), (15, 8, 0.5, 1, 1)],
)
def test_an_epoch_draws_one_candidate_per_pair(pairs, keep, keep_ratio, whole, begun):
    lengths = [steps_per_epoch(pairs, keep=keep, keep_ratio=keep_ratio, drop_last=drop) for drop in (True, False)]
    assert lengths == [whole, begun]
    assert len(ticket_loader(begun, 4)) == 4 * begun
