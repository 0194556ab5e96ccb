"""Hostile answers from a generator: every one gets a verdict, in bounded time and memory, here and in the worker."""

from __future__ import annotations

import contextlib
import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sage_dpo.verification import VerificationRequest, Verifier

PARENT_LIMIT_MIB = 400
WORKER_LIMIT_MIB = 1024
GOLDS = ["5", r"\frac{1}{2}", "x+1", "(1,2)", "A", "yes", r"2\sqrt{3}", "3, 5", "[0, 1)", "1,450"]


def tower(rng: random.Random) -> str:
    depth = rng.randint(1, 40)
    return "^{".join(rng.choice("23459x") for _ in range(depth)) + "}" * (depth - 1)


def factorials(rng: random.Random) -> str:
    depth = rng.randint(1, 12)
    return "(" * depth + str(rng.randint(3, 10**6)) + "!)" * depth


def digits(rng: random.Random) -> str:
    return rng.choice(["", "-", "0.", "1e"]) + rng.choice("123456789") * 10 ** rng.randint(2, 6)


def nesting(rng: random.Random) -> str:
    opening, closing = rng.choice(
        [("(", ")"), ("{", "}"), (r"\frac{1}{", "}"), (r"\sqrt{", "}"), ("[", "]"), ("|", "|")]
    )
    depth = 10 ** rng.randint(1, 4)
    return opening * depth + "5" + closing * (depth - rng.choice([0, 0, 1]))


def repeats(rng: random.Random) -> str:
    piece = rng.choice([
        r"\boxed{", r"\boxed{5}", "#### ", "The answer is ", "not ", "<think>", "</think>", "<answer>", "$",
        "$$", " ", "\n", "**", "= ", "5 or ", "x = ", ", ", "1,", r"\text{", "|", "^", "_", "%", r"\%", "km/", "-",
        "\u0301", "\u202e", "\x00",
    ])  # fmt: skip
    return piece * 10 ** rng.randint(1, 5)


def analysis(rng: random.Random) -> str:
    size = 10 ** rng.randint(3, 15)
    return rng.choice([
        rf"\sum_{{k=1}}^{{{size}}} \frac{{1}}{{k^3}}", rf"\prod_{{k=1}}^{{{size}}} k",
        rf"\binom{{{size}}}{{{size // 3}}}",
        rf"\int_0^{{{size}}} e^{{-x^2}} \sin(x^{{9}}) dx", rf"\lim_{{x \to 0}} \frac{{\sin x^{{{size}}}}}{{x}}",
        rf"(x+y+z)^{{{size}}}", rf"\log_{{{size}}} {size}!", rf"\sqrt[{size}]{{{size}}}",
        rf"{size}^{{\frac{{1}}{{{size}}}}}",
    ])  # fmt: skip


def many(rng: random.Random) -> str:
    items = ",".join(str(rng.randint(-9, 9)) for _ in range(10 ** rng.randint(1, 4)))
    left, right = rng.choice([("(", ")"), (r"\{", r"\}"), ("[", ")"), (r"\begin{pmatrix}", r"\end{pmatrix}"), ("", "")])
    return left + items + right


def code(rng: random.Random) -> str:
    return rng.choice([
        "__import__('pathlib').Path('{mark}').touch()", "exec(\"open('{mark}','w')\")", "eval('1/0')", "{{7*7}}",
        "().__class__.__mro__[1].__subclasses__()", "lambda: 0", "Symbol('x').__class__", r"\input{/etc/passwd}",
        "os.system('touch {mark}')", "'; DROP TABLE x; --", "%s%s%n", "\\u0000", "S(__import__('os').getpid())",
    ])  # fmt: skip


def noise(rng: random.Random) -> str:
    signs = r"0123456789+-*/^_=(){}[]<>|,.;:!?$%&\"'xyzπ∞√≤≠∑\ "
    return "".join(rng.choices([*signs, r"\frac", r"\pi", r"\cdot", r"\left(", r"\right)"], k=rng.randint(1, 300)))


FAMILIES: list[Callable[[random.Random], str]] = [
    tower, factorials, digits, nesting, repeats, analysis, many, code, noise,
]  # fmt: skip


def requests(count: int, seed: int, mark: Path) -> list[VerificationRequest]:
    """Return `count` hostile completions, some of which have a hostile gold, too."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        answer = family(rng).replace("{mark}", str(mark))
        form = rng.choice(
            ["\\boxed{{{}}}", "#### {}", "The answer is {}.", "<answer>{}</answer>", "{}", "<think>{}</think>{}"]
        )
        gold = answer[:200] if rng.random() < 0.1 and answer.strip() else rng.choice(GOLDS)
        made.append(VerificationRequest(f"{family.__name__}-{number}", 0, form.format(answer, answer), gold or "5"))
    return made


@contextlib.contextmanager
def _growth() -> Iterator[list[float]]:
    """Yield a list of one number: by how many MiB the resident memory of this process grew, at most."""
    ended, grown = threading.Event(), [0.0]

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    def watch(before: float) -> None:
        while not ended.wait(0.01):
            grown[0] = max(grown[0], resident() - before)

    thread = threading.Thread(target=watch, args=(resident(),))
    thread.start()
    try:
        yield grown
    finally:
        ended.set()
        thread.join()


def run(root: Path, *, count: int = 720, seed: int = 0, soft_timeout_s: float = 0.3) -> dict[str, Any]:
    """Return totals: verdicts by kind, seconds, memory here and in workers; `failures` of the promise."""
    mark = root / "mark"
    asked = requests(count, seed, mark)
    started = time.monotonic()
    with Verifier(1, soft_timeout_s, 20.0, memory_limit_mb=WORKER_LIMIT_MIB) as verifier, _growth() as grown_mib:
        verdicts = verifier.verify(asked)
    grown = grown_mib[0]
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    kinds = Counter(str(verdict.kind) for verdict in verdicts)
    failures = []
    if len(verdicts) != count:
        failures.append(f"{len(verdicts)} verdicts of {count} answers")
    if mark.exists():
        failures.append("an answer was executed")
    if grown > PARENT_LIMIT_MIB:
        failures.append(f"this process grew by {grown:.0f} MiB, more than {PARENT_LIMIT_MIB}")
    return {
        "answers": count,
        "verdicts": dict(sorted(kinds.items())),
        "grading_seconds": round(time.monotonic() - started, 1),
        "parent_grew_mib": round(grown),
        "worker_limit_mib": WORKER_LIMIT_MIB,
        "largest_child_mib": round(worker),
        "failures": failures,
    }
