"""Answers graded per second: `sage_dpo.verification.Verifier`, 2 workers, against TRL's `accuracy_reward`, one process.

Both get the same completions and golds (TRL's in a box, as its data has them). Completions are made from a seed, K = 8
for a problem: some sentences of arithmetic that end in a box. A problem has 1-3 distinct final answers, each in several
spellings; the texts around them differ, and one in ten is an exact duplicate. GSM8K-like answers are integers,
decimals, counts with units, amounts of money; MATH-like ones are integers in 62 of 100 problems (63 in MATH-500), else
fractions, polynomials, radicals, tuples, multiples of pi, percentages, intervals, several roots, and in 6 of 100
complex numbers, matrices, unions, equations. On our side these last reach math-verify, and polynomials, radicals and
multiples of pi that are spelled otherwise than the gold. Both sides must agree on 99 % of the verdicts, or no time is
taken.

No cache helps: every repetition grades problems of its own. Processes are warm, except where start-up is named; TRL's
side is never charged for its imports.

Hostile answers are well-formed and slow to parse or to compare. They are 1 % of the answers, each in two samples of its
problem: a policy that leaves a number unevaluated does so more than once. TRL allows 10 s for parsing and 5 s for
comparing, fixed; ours allows answers as short as these 1 s of CPU time by default. Half of the kinds are arithmetic,
half are functions, decimals, integrals. Left out are answers on which TRL raises (an integer of more than 4,300 digits)
or ignores its own deadlines (48 s for a fraction nested 20 deep).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

from trl.rewards import accuracy_reward

from benchmarks import harness
from benchmarks.harness import Claim
from sage_dpo.records import VerdictKind
from sage_dpo.verification import VerificationRequest, Verifier

SAMPLES = 8
WORKERS = 2
MIN_AGREEMENT = 0.99
PRIMES = (31, 37, 41, 43, 47, 53, 59, 61)

# Each kind of answer in its spellings, the usual one first. Filled with a < b, b prime, and what follows from them.
GSM8K_LIKE: dict[tuple[str, ...], int] = {
    ("{n}", "{n:,}", "{n}.0"): 55,
    ("{a}", "{a}\\text{{ apples}}", "{a} \\text{{ apples}}"): 20,
    ("\\${n:,}.50", "{n}.50", "\\${n}.50"): 15,
    ("{a}.25", "{a}.250"): 10,
}
NO_INTEGERS: dict[tuple[str, ...], int] = {
    ("\\frac{{{a}}}{{{b}}}", "\\dfrac{{{a}}}{{{b}}}", "{a}/{b}"): 10,
    ("x^2 + {sum}x + {product}", "(x+{a})(x+{b})", "x^{{2}}+{sum}x+{product}"): 4,
    ("{a}\\sqrt{{{b}}}", "\\sqrt{{{square}}}", "{a} \\sqrt {{{b}}}"): 6,
    ("({a}, {b})", "\\left({a},{b}\\right)", "({a},{b})"): 3,
    ("\\frac{{{a}\\pi}}{{{b}}}", "\\frac{{{a}}}{{{b}}}\\pi", "{a}\\pi/{b}"): 3,
    ("{a}\\%", "{a}", "{a} \\%"): 3,
    ("[-{a}, {b})", "\\left[-{a}, {b}\\right)", "[-{a},{b})"): 2,
    ("-{a}, {b}", "{b}, -{a}", "-{a},{b}"): 1,
}
FOR_MATH_VERIFY: dict[tuple[str, ...], int] = {
    ("{a} + {b}i", "{a}+{b}i", "{b}i+{a}"): 2,
    ("\\begin{{pmatrix}} {a} \\\\ {b} \\end{{pmatrix}}", "\\begin{{pmatrix}}{a}\\\\{b}\\end{{pmatrix}}"): 2,
    ("(-\\infty, {a}) \\cup ({b}, \\infty)", "(-\\infty,{a})\\cup({b},\\infty)"): 1,
    ("y = {a}x + {b}", "y={a}x+{b}", "y = {b} + {a}x"): 1,
}
MATH_LIKE: dict[tuple[str, ...], int] = {("{n}", "{n:,}", "{n}.0"): 62, **NO_INTEGERS, **FOR_MATH_VERIFY}
HOSTILE = (
    "{a}^{{{a}^{{{a}^{a}}}}}",
    "\\binom{{{a}000000}}{{{a}00000}}",
    "({a} \\cdot 10^6)!",
    "(x+y+z+{a})^{{200}}",
    "\\sum_{{k=1}}^{{{a}00000}} \\frac{{1}}{{k^2}}",
    "\\prod_{{k=1}}^{{{a}0000}} \\left(1+\\frac{{1}}{{k^2}}\\right)",
)
HOSTILE_FUNCTIONS = (
    "\\log_{{{a}}}({b}^{{{a}^{{{a}^{a}}}}})",
    "(\\sin x+\\cos y+\\tan z+{a})^{{200}}",
    "\\int \\frac{{x^{{{a}}}\\sin x}}{{x^{{{b}}}+x+1}} dx",
    "1.{a}^{{{a}^{{{a}^{a}}}}}",
    "\\sum_{{k=1}}^{{{a}0000}} \\sin(k^2)",
    "\\sum_{{n=1}}^{{{a}0000}} \\frac{{x^n}}{{n}}",
)
OPENINGS = (
    "Let's think step by step.",
    "We are asked how many {things} {name} has in the end.",
    "To solve this, we go through the problem one step at a time.",
    "Let me restate the problem: {name} begins with some {things}.",
)
STEPS = (
    "First, {a} {op} {b} = {c}, so there are {c} {things} at this point.",
    "Next we take the {a} {things} and compute {a} {op} {b}, which gives {c}.",
    "Now $x = {a} {op} {b} = {c}$, that is {c} {things}.",
    "{name} then has {a} {op} {b} = <<{a}{op}{b}={c}>>{c} {things}.",
    "We need to be careful here: {a} {op} {b} is {c}, and not {b}.",
    "Substituting, we get\n\\[ {a} {op} {b} = {c}. \\]",
)
ENDINGS = (
    "The answer is $\\boxed{{{answer}}}$.",
    "Therefore, the final answer is \\boxed{{{answer}}}.",
    "So we end up with\n\\[ \\boxed{{{answer}}} \\]",
    "**Final answer:** \\boxed{{{answer}}}",
    "Hence {name} gets $\\boxed{{{answer}}}$",
)

Kinds = dict[tuple[str, ...], int]
Grader = Callable[[Sequence[VerificationRequest]], object]


def completions(kinds: Kinds, problems: int, *, seed: int, hostile: Sequence[str] = ()) -> list[VerificationRequest]:
    """Return K completions for each problem; 1 % of them are hostile, two of each of the first problems."""
    rng = random.Random(seed)
    requests = []
    for index in range(problems):
        (spellings,) = rng.choices(list(kinds), list(kinds.values()))
        a, b = rng.randint(2, 30), rng.choice(PRIMES)
        right, *wrong = ([_fill(spelling, x, b) for spelling in spellings] for x in (a, a + 1, 2 * a))
        skill, texts = rng.betavariate(1.5, 1.0), list[str]()
        for sample in range(SAMPLES):
            answers = right if rng.random() < skill else rng.choices(wrong, (0.7, 0.3))[0]
            answer = answers[0] if rng.random() < 0.7 else rng.choice(answers)
            if hostile and 2 * index < problems * SAMPLES // 100 and sample < 2:
                answer = _fill(hostile[index % len(hostile)], seed % 7 + 3, b)
            is_copy = sample > 5 and rng.random() < 0.4
            texts.append(rng.choice(texts[2:]) if is_copy else _text(rng, answer))
        requests += [VerificationRequest(f"{seed}-{index}", k, text, right[0]) for k, text in enumerate(texts)]
    return requests


def _fill(spelling: str, a: int, b: int) -> str:
    return spelling.format(a=a, b=b, n=a * b, sum=a + b, product=a * b, square=a * a * b)


def _text(rng: random.Random, answer: str) -> str:
    words = {"name": rng.choice(("Ann", "Ben", "Mia", "Omar")), "things": rng.choice(("apples", "points", "coins"))}
    sentences, state = [rng.choice(OPENINGS).format(**words)], rng.randint(2, 60)
    for _ in range(rng.randint(3, 7)):
        op, operand = rng.choice("+-*"), rng.randint(2, 12)
        result = {"+": state + operand, "-": state - operand, "*": state * operand}[op]
        sentences.append(rng.choice(STEPS).format(a=state, op=op, b=operand, c=result, **words))
        state = result
    return " ".join([*sentences, rng.choice(ENDINGS).format(answer=answer, **words)])


def _trl(requests: Sequence[VerificationRequest]) -> list[float | None]:
    golds = [f"\\boxed{{{request.gold}}}" for request in requests]
    return accuracy_reward([[{"role": "assistant", "content": request.completion}] for request in requests], golds)


def _cold(requests: Sequence[VerificationRequest]) -> None:
    with Verifier(WORKERS) as verifier:
        verifier.verify(requests)


def _agreement(verifier: Verifier, kinds: Kinds) -> float:
    """Return the share of equal verdicts; raise if it is below 99 %. Warms up both sides as well."""
    requests = completions(kinds, 40, seed=0)
    differences = [
        f"gold {request.gold!r}, answer {verdict.extracted!r}: ours {verdict.kind.value}, TRL {reward}"
        for request, verdict, reward in zip(requests, verifier.verify(requests), _trl(requests), strict=True)
        if (verdict.kind is VerdictKind.CORRECT) != (reward == 1.0)
    ]
    agreement = 1.0 - len(differences) / len(requests)
    if agreement < MIN_AGREEMENT:
        raise RuntimeError(f"the verdicts agree on {agreement:.1%} only:\n" + "\n".join(sorted(set(differences))))
    return agreement


def _seconds(
    graders: dict[str, Grader], kinds: Kinds, problems: int, repetitions: int, hostile: Sequence[str] = ()
) -> list[float]:
    """Return each grader's median seconds. Every repetition has its own problems, the same for all graders."""
    sets = [completions(kinds, problems, seed=1 + i, hostile=hostile) for i in range(repetitions)]
    turns = {name: iter(sets) for name in graders}
    timed = {name: lambda name=name: graders[name](next(turns[name])) for name in graders}
    return list(harness.interleave(timed, repetitions).values())


def _claim(name: str, answers: int, ours: float, peer: float, required: float | None = None) -> Claim:
    return harness.rate_claim(name, ours=answers / ours, peer=answers / peer, unit="answers/s", required=required)


def _clean_claims(verifier: Verifier, problems: int, repetitions: int) -> list[Claim]:
    kinds = {
        "GSM8K-like": GSM8K_LIKE,
        "MATH-like": MATH_LIKE,
        "MATH-like, no integers": {**NO_INTEGERS, **FOR_MATH_VERIFY},
        "MATH-like, for math-verify only": FOR_MATH_VERIFY,
    }
    aims = {"GSM8K-like": 5.0, "MATH-like": 5.0}
    claims, agreements, answers = [], [], problems * SAMPLES
    for name in kinds:
        agreements.append(_agreement(verifier, kinds[name]))
        graders = {"ours": verifier.verify, "peer": _trl}
        has_start = name == "MATH-like"
        ours, peer, *cold = _seconds(
            graders | ({"cold": _cold} if has_start else {}), kinds[name], problems, repetitions
        )
        claims.append(_claim(name, answers, ours, peer, aims.get(name)))
        if has_start:
            claims.append(_claim(f"{name}, with start-up", answers, cold[0], peer))
    return [*claims, harness.rate_claim("equal verdicts", ours=100 * min(agreements), peer=100.0, unit="%")]


def _hostile_claims(verifier: Verifier, patient: Verifier, problems: int) -> list[Claim]:
    """Both halves of the hostile kinds, then those that only a deadline ends."""
    graders = {"ours": verifier.verify, "peer": _trl, "patient": patient.verify}
    arithmetic, functions = (
        _seconds(graders, MATH_LIKE, problems, 1, hostile) for hostile in (HOSTILE, HOSTILE_FUNCTIONS)
    )
    ours, peer, slow = map(sum, zip(arithmetic, functions, strict=True))
    answers, name = problems * SAMPLES, "MATH-like, 1 % hostile"
    return [
        _claim(name, 2 * answers, ours, peer, 15.0),
        _claim(f"{name}, functions only", answers, functions[0], functions[1]),
        _claim(f"{name}, our deadline 5 s", 2 * answers, slow, peer),
    ]


def benchmark(quick: bool) -> list[Claim]:
    """Return the claims about clean answers, then about 1 % of hostile ones."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns at every timeout
    problems, repetitions, hostile_problems = (50, 2, 25) if quick else (100, 3, 150)
    with Verifier(WORKERS) as verifier, Verifier(WORKERS, soft_timeout_s=15.0, hard_timeout_s=20.0) as patient:
        # a third of the 15 s for short answers
        for each in (verifier, patient):
            each.verify(completions(FOR_MATH_VERIFY, 40, seed=0))  # starts the workers
        clean = _clean_claims(verifier, problems, repetitions)
        return [*clean, *_hostile_claims(verifier, patient, hostile_problems)]


if __name__ == "__main__":
    harness.run(benchmark, name="verification")
