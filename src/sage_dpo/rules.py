"""Rules that several stages apply, each stated once: what a verdict counts as, and which pairs can be trained on.

**Unknown verdicts.** A timeout or an error says nothing about the completion: it is neither right nor wrong, so it
leaves the denominator of a success rate and enters no pair. (An evaluation's accuracy is stricter: whatever is not
correct counts against the policy there, see `evaluation.results`.)

**A usable pair** has a prompt and two different, non-empty completions that fit into the token limit whole; nothing is
ever cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sage_dpo.records import Verdict, VerdictKind

# Why a completion or a pair is left out, as it appears in counts and reports; the first that applies is the reason.
EMPTY_PROMPT = "empty prompt"
EMPTY = "empty completion"
EQUAL = "chosen equals rejected"
OVER_LONG = "longer than max_length"
EXCLUSIONS = (EMPTY_PROMPT, EMPTY, EQUAL, OVER_LONG)


def success_rate(kinds: Iterable[VerdictKind | str]) -> float | None:
    """Return correct / known verdicts, in [0, 1]; `None` without a known one. Kinds may come as text, from a file."""
    counts = Counter(kinds)
    known = sum(counts[kind] for kind in VerdictKind if kind.is_known)
    return counts[VerdictKind.CORRECT] / known if known else None


def verdict_counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Return how many verdicts there are of each kind, every kind present: `{"correct": 5, "wrong": 3, ...}`."""
    counts = Counter(verdict.kind for verdict in verdicts)
    return {kind.value: counts[kind] for kind in VerdictKind}


def completion_exclusion(
    prompt_ids: Sequence[int], completion_ids: Sequence[int], *, max_length: int | None, eos_token_id: int | None
) -> str | None:
    """Return why a completion cannot be trained on, or `None` if it can.

    Args:
        prompt_ids, completion_ids: token ids.
        max_length: longest prompt + completion, in tokens; `None` sets no bound.
        eos_token_id: a completion of this token alone is empty.
    """
    if not prompt_ids:
        return EMPTY_PROMPT
    if not completion_ids or tuple(completion_ids) == (eos_token_id,):
        return EMPTY
    if max_length is not None and len(prompt_ids) + len(completion_ids) > max_length:
        return OVER_LONG
    return None


def pair_exclusion(
    prompt_ids: Sequence[int],
    chosen_ids: Sequence[int],
    rejected_ids: Sequence[int],
    *,
    max_length: int | None,
    eos_token_id: int | None,
) -> str | None:
    """Return why a pair cannot be trained on, or `None` if it can. Arguments as for `completion_exclusion`."""
    sides = (tuple(chosen_ids), tuple(rejected_ids))
    reasons = {completion_exclusion(prompt_ids, ids, max_length=max_length, eos_token_id=eos_token_id) for ids in sides}
    if sides[0] == sides[1]:
        reasons.add(EQUAL)
    return next((reason for reason in EXCLUSIONS if reason in reasons), None)
