"""Correct x wrong completions of one problem become preference pairs; whatever does not is counted by reason."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sage_dpo.config import OnPolicyPairSettings
from sage_dpo.errors import DataError, EmptyPoolError
from sage_dpo.records import Completion, FinishReason, PreferencePair, Problem, Verdict
from sage_dpo.rules import EMPTY, EQUAL, completion_exclusion, success_rate, verdict_counts

REFERENCE_SAMPLE = -1

# Reasons, beside those of `rules`, as they appear in counts and reports.
TRUNCATED = "completion cut at max_new_tokens"
DUPLICATE = "duplicate completion"
UNKNOWN = "verdict unknown (timeout or error)"
BEYOND_BOUND = "beyond max_pairs_per_problem"
NO_COMPLETION = "problem without completions"
ALL_UNKNOWN = "problem without a known verdict"
NO_CORRECT = "problem without a correct completion"
ALL_CORRECT = "problem with every completion correct"
ONE_SIDED = "problem with no usable completion on one side"
NO_REFERENCE = "problem without a usable reference solution"


@dataclass(frozen=True)
class PairBuild:
    """Pairs, and what did not become one.

    Attributes:
        pairs: in the order of the problems (or rows).
        counts: exclusions by reason; reasons that did not occur are absent.
        totals: what went in and came out: problems (or rows), completions, verdicts by kind, pairs, pairs whose
            chosen side is a reference solution.
    """

    pairs: list[PreferencePair]
    counts: dict[str, int]
    totals: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Rules:
    settings: OnPolicyPairSettings
    seed: int
    policy_version: int
    max_length: int | None
    eos_token_id: int
    reference: Callable[[Problem], tuple[int, ...]] | None


def build_pairs(
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
    *,
    settings: OnPolicyPairSettings,
    seed: int,
    policy_version: int,
    max_length: int | None,
    eos_token_id: int,
    reference: Callable[[Problem], tuple[int, ...]] | None = None,
) -> PairBuild:
    """Pair correct with wrong completions of the same problem.

    Success rate s = correct / completions with a known verdict; timeouts and errors are unknown and leave the
    denominator. A problem gives at most `max_pairs_per_problem` of its combinations, chosen so that every chosen and
    every rejected completion is used as evenly as possible; which ones depends on (seed, policy version, problem id)
    alone.

    Interpretation: the paper leaves open what an answer without a readable result is. A completion that ended by
    itself and is `unparseable` failed to give the answer it was asked for, so it may be rejected. A truncated
    completion counts in s by its verdict, is never chosen, and is rejected only with `keep_truncated_rejected` (it
    then has no end-of-sequence token, because the policy never emitted one).

    Args:
        problems: order of the result.
        completions: all samples, any order; those of other problems are an error.
        verdicts: one for each completion.
        settings: bound and which completions may take part.
        seed: >= 0.
        policy_version: kept in the pairs.
        max_length: longest prompt + completion in tokens; `None` sets no bound. Nothing is ever cut.
        eos_token_id: a completion of this token alone is empty; closes reference solutions.
        reference: encodes a problem's solution, used for problems with s = 0 if `settings.use_reference_solution`.

    Raises:
        DataError: a completion without verdict or problem, or a duplicate sample.
        EmptyPoolError: not one pair could be built; the message says why.
    """
    rules = _Rules(settings, seed, policy_version, max_length, eos_token_id, reference)
    graded = _join(problems, completions, verdicts)
    counts: Counter[str] = Counter()
    pairs: list[PreferencePair] = []
    for problem in problems:
        pairs += _pairs_of_problem(problem, graded.get(problem.id, []), rules, counts)
    totals = {
        "problems": len(problems),
        "completions": len(completions),
        **verdict_counts(verdicts),
        "pairs": len(pairs),
        "pairs with a reference solution": sum(pair.chosen_sample == REFERENCE_SAMPLE for pair in pairs),
    }
    exclusions = {reason: count for reason, count in sorted(counts.items()) if count}
    if settings.flip_fraction:
        pairs = [flip(pair) if _is_flipped(pair, rules) else pair for pair in pairs]
    if not pairs:
        raise EmptyPoolError(_explain_empty(totals, exclusions), exclusions)
    return PairBuild(pairs, exclusions, totals)


def flip(pair: PreferencePair) -> PreferencePair:
    """Return the pair with chosen and rejected swapped."""
    return replace(
        pair,
        chosen_ids=pair.rejected_ids,
        rejected_ids=pair.chosen_ids,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_sample=pair.rejected_sample,
        rejected_sample=pair.chosen_sample,
    )


def _is_flipped(pair: PreferencePair, rules: _Rules) -> bool:
    """Whether label noise hits this pair; a function of (seed, policy version, pair id) alone."""
    return float(_generator(f"flip/{pair.id}", rules).random()) < rules.settings.flip_fraction


def _join(
    problems: Sequence[Problem], completions: Sequence[Completion], verdicts: Sequence[Verdict]
) -> dict[str, list[tuple[Completion, Verdict]]]:
    """Return each problem's completions, by sample, with their verdicts."""
    by_key = {(verdict.problem_id, verdict.sample): verdict for verdict in verdicts}
    known = {problem.id for problem in problems}
    if len(known) < len(problems):
        raise DataError(f"{len(problems) - len(known)} problem ids occur more than once; give every problem its own id")
    graded: dict[str, list[tuple[Completion, Verdict]]] = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    for completion in completions:
        key = (completion.problem_id, completion.sample)
        if completion.problem_id not in known:
            raise DataError(
                f"completion {key} answers a problem that was not given; pass the problems it was sampled for"
            )
        if key in seen:
            raise DataError(f"completion {key} occurs more than once; give each once")
        if key not in by_key:
            raise DataError(f"completion {key} has no verdict; verify the same completions that are paired")
        seen.add(key)
        graded[completion.problem_id].append((completion, by_key[key]))
    for rows in graded.values():
        rows.sort(key=lambda row: row[0].sample)
    return graded


def _pairs_of_problem(
    problem: Problem, graded: list[tuple[Completion, Verdict]], rules: _Rules, counts: Counter[str]
) -> list[PreferencePair]:
    known = [row for row in graded if row[1].kind.is_known]
    counts[UNKNOWN] += len(graded) - len(known)
    if not known:
        counts[ALL_UNKNOWN if graded else NO_COMPLETION] += 1
        return []
    correct = [completion for completion, verdict in known if verdict.is_correct]
    wrong = [completion for completion, verdict in known if not verdict.is_correct]
    if not wrong:
        counts[ALL_CORRECT] += 1
        return []
    if not correct:
        counts[NO_CORRECT] += 1
        if not rules.settings.use_reference_solution:
            return []
        correct = _reference_completion(problem, wrong[0], rules, counts)
        if not correct:
            return []
    chosen = _usable(correct, rules, counts, keep_truncated=False)
    rejected = _usable(wrong, rules, counts, keep_truncated=rules.settings.keep_truncated_rejected)
    chosen_ids = {completion.token_ids for completion in chosen}
    different = [completion for completion in rejected if completion.token_ids not in chosen_ids]
    counts[EQUAL] += len(rejected) - len(different)
    if not chosen or not different:
        counts[ONE_SIDED] += 1
        return []
    rate = success_rate(verdict.kind for _, verdict in known)
    selected = _spread(len(chosen), len(different), rules.settings.max_pairs_per_problem, _generator(problem.id, rules))
    counts[BEYOND_BOUND] += len(chosen) * len(different) - len(selected)
    return [_pair(problem, chosen[i], different[j], rate, rules.policy_version) for i, j in selected]


def _usable(
    completions: Sequence[Completion], rules: _Rules, counts: Counter[str], *, keep_truncated: bool
) -> list[Completion]:
    """Return completions that may enter a pair, each token sequence once; count the others."""
    usable: dict[tuple[int, ...], Completion] = {}
    for completion in completions:
        reason = _exclusion(completion, rules, keep_truncated)
        if reason is None and completion.token_ids in usable:
            reason = DUPLICATE
        if reason is None:
            usable[completion.token_ids] = completion
        else:
            counts[reason] += 1
    return list(usable.values())


def _exclusion(completion: Completion, rules: _Rules, keep_truncated: bool) -> str | None:
    if completion.finish_reason is FinishReason.LENGTH and not keep_truncated:
        return TRUNCATED
    if not completion.text.strip():
        return EMPTY
    return completion_exclusion(
        completion.prompt_ids, completion.token_ids, max_length=rules.max_length, eos_token_id=rules.eos_token_id
    )


def _reference_completion(
    problem: Problem, sampled: Completion, rules: _Rules, counts: Counter[str]
) -> list[Completion]:
    """Return the reference solution as a completion of the sampled one's prompt; none if the problem has none."""
    ids = () if rules.reference is None or problem.solution is None else tuple(rules.reference(problem))
    if not ids or ids == (rules.eos_token_id,):
        counts[NO_REFERENCE] += 1
        return []
    if ids[-1] != rules.eos_token_id:
        ids = (*ids, rules.eos_token_id)
    text = problem.solution or ""
    return [Completion(problem.id, REFERENCE_SAMPLE, text, sampled.prompt_ids, ids, FinishReason.STOP)]


def _spread(n_chosen: int, n_rejected: int, bound: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return up to `bound` distinct (chosen, rejected) index pairs that use both sides as evenly as possible.

    Both sides are shuffled and walked in step, k -> (k mod a, k mod b). That walk repeats after lcm(a, b) pairs;
    shifting the rejected side by one then gives new pairs, until all a * b are used.
    """
    order_chosen, order_rejected = rng.permutation(n_chosen), rng.permutation(n_rejected)
    period = math.lcm(n_chosen, n_rejected)
    return [
        (int(order_chosen[k % n_chosen]), int(order_rejected[(k + k // period) % n_rejected]))
        for k in range(min(bound, n_chosen * n_rejected))
    ]


def _generator(name: str, rules: _Rules) -> np.random.Generator:
    """A generator of one problem's or pair's own, so that others do not change what it draws."""
    key = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4").tolist()
    return np.random.default_rng([rules.seed, rules.policy_version, *key])


def _pair(
    problem: Problem, chosen: Completion, rejected: Completion, success_rate: float | None, policy_version: int
) -> PreferencePair:
    if chosen.prompt_ids != rejected.prompt_ids:
        raise DataError(
            f"problem {problem.id!r}: samples {chosen.sample} and {rejected.sample} answer different prompts; "
            "sample all completions of a problem with one prompt template"
        )
    name = "reference" if chosen.sample == REFERENCE_SAMPLE else str(chosen.sample)
    return PreferencePair(
        id=f"{problem.id}/v{policy_version}/{name}-{rejected.sample}",
        problem_id=problem.id,
        prompt_ids=chosen.prompt_ids,
        chosen_ids=chosen.token_ids,
        rejected_ids=rejected.token_ids,
        prompt=problem.problem,
        chosen=chosen.text,
        rejected=rejected.text,
        success_rate=success_rate,
        chosen_sample=chosen.sample,
        rejected_sample=rejected.sample,
        policy_version=policy_version,
    )


def _explain_empty(totals: Mapping[str, int], exclusions: Mapping[str, int]) -> str:
    sampled = totals["completions"]
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in exclusions.items()) or "nothing was excluded"
    graded = f"of {sampled:,} completions of {totals['problems']:,} problems"
    if not sampled:
        head, remedy = "there are no completions", "sample some first"
    elif not totals["correct"]:
        head = f"no correct completion at all: 0 {graded}"
        remedy = (
            "use easier problems or a stronger policy, raise rollouts.samples or rollouts.max_new_tokens, check that "
            "the prompt asks for the answer format the verifier reads, or switch pairs.use_reference_solution on"
        )
    elif totals["correct"] == sampled:
        head, remedy = f"every completion is correct: {sampled:,} {graded}", "use harder problems"
    else:
        head = f"no pair could be built: {totals['correct']:,} correct {graded}"
        remedy = "see the reasons; raising rollouts.samples, rollouts.max_new_tokens or training.max_length may help"
    return f"{head} ({reasons}); {remedy}"
