"""Training problems that are also evaluation problems, or nearly so. Reported, never removed.

Three tests, from strict to loose: equal normalised text; equal letters and digits (punctuation and signs dropped, so a
problem that differs by a sign is reported too: look at it); a shared share of 13-word sequences.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sage_dpo.problems.deduplicate import have_same_answer, normalize_statement
from sage_dpo.records import Problem

NGRAM_WORDS = 13
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class OverlapRow:
    """One evaluation problem that the training problems contain.

    Attributes:
        suite, suite_problem_id: the evaluation problem.
        problem_id: the training problem that matches; for `ngram` the one that shares most.
        kind: `equal`, `letters_and_digits` or `ngram`, the strictest that applies.
        share: share of the evaluation problem's 13-word sequences found among all training problems; 1 for the
            other kinds.
        has_same_answer: whether the two gold answers are spelled alike.
    """

    suite: str
    suite_problem_id: str
    problem_id: str
    kind: str
    share: float
    has_same_answer: bool


def overlap_report(
    problems: Sequence[Problem], suites: Mapping[str, Sequence[Problem]], *, min_share: float = 0.8
) -> list[OverlapRow]:
    """Return one row per evaluation problem that overlaps with `problems`, in the order of the suites.

    Time and memory are linear in the number of words.

    Args:
        problems: training problems.
        suites: evaluation problems by suite name.
        min_share: report a shared share of 13-word sequences from here up, in (0, 1].

    Raises:
        ValueError: min_share is outside (0, 1].
    """
    if not 0.0 < min_share <= 1.0:
        raise ValueError(f"min_share is {min_share}, expected a share in (0, 1]")
    by_text = _index(problems, normalize_statement)
    by_letters = _index(problems, _letters_and_digits)
    shares = _ngram_shares(problems, suites)
    rows = []
    for suite, suite_problems in suites.items():
        for position, problem in enumerate(suite_problems):
            share, best = shares.get((suite, position), (0.0, None))
            match, kind = by_text.get(normalize_statement(problem.problem)), "equal"
            if match is None:
                match, kind = by_letters.get(_letters_and_digits(problem.problem)), "letters_and_digits"
            if match is not None:
                share = 1.0
            elif share >= min_share:
                match, kind = best, "ngram"
            if match is not None:
                rows.append(OverlapRow(suite, problem.id, match.id, kind, share, have_same_answer(match, problem)))
    return rows


def _letters_and_digits(text: str) -> str:
    return "".join(character for character in normalize_statement(text) if character.isalnum())


def _index(problems: Sequence[Problem], key: Callable[[str], str]) -> dict[str, Problem]:
    """First problem by key; a text without letters and digits (`!!!`) has no key, as it would match any other such."""
    index: dict[str, Problem] = {}
    for problem in problems:
        if text := key(problem.problem):
            index.setdefault(text, problem)
    return index


def _ngrams(text: str) -> Iterator[int]:
    words = _WORD.findall(text.lower())
    for start in range(len(words) - NGRAM_WORDS + 1):
        yield hash(tuple(words[start : start + NGRAM_WORDS]))


def _ngram_shares(
    problems: Sequence[Problem], suites: Mapping[str, Sequence[Problem]]
) -> dict[tuple[str, int], tuple[float, Problem]]:
    """Return, by (suite, position), the share of n-grams found among the problems, and the problem sharing most.

    The suites' n-grams are indexed, since they are fewer; the training problems stream past.
    """
    owners: dict[int, list[tuple[str, int]]] = defaultdict(list)
    totals: dict[tuple[str, int], int] = {}
    for suite, suite_problems in suites.items():
        for position, problem in enumerate(suite_problems):
            grams = set(_ngrams(problem.problem))
            totals[suite, position] = len(grams)
            for gram in grams:
                owners[gram].append((suite, position))
    found: set[int] = set()
    most: dict[tuple[str, int], tuple[int, Problem]] = {}
    for problem in problems:
        shared = {gram for gram in _ngrams(problem.problem) if gram in owners}
        found |= shared
        for owner, count in Counter(owner for gram in shared for owner in owners[gram]).items():
            if owner not in most or count > most[owner][0]:
                most[owner] = (count, problem)
    hits = Counter(owner for gram in found for owner in owners[gram])
    return {owner: (count / totals[owner], most[owner][1]) for owner, count in hits.items()}
