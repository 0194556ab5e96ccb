"""Where the final answer stands in a completion."""

from __future__ import annotations

import time

import pytest

from sage_dpo.verification import extract_answer
from sage_dpo.verification.answers import compare_answers
from sage_dpo.verification.extraction import MAX_ANSWER_CHARS
from sage_dpo.verification.statements import last_result, unmarked_tail

ROWS: list[tuple[str, str | None]] = [
    # boxes
    (r"so \boxed{15}.", "15"),
    (r"The answer is \boxed{ 15 }", "15"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed {7}", "7"),
    (r"\boxed 7", "7"),
    (r"\fbox{7}", "7"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{x = \text{two}}", r"x = \text{two}"),
    # the last one counts, unless they follow each other
    (r"First \boxed{3}. Wait, that forgets the pears, so in fact there are \boxed{4} of them.", "4"),
    (r"$x = \boxed{1}$ or $x = \boxed{-2}$", "1, -2"),
    (r"\boxed{1}, \boxed{2}, and \boxed{3}", "1, 2, 3"),
    (r"\boxed{5} $\boxed{5}$", "5"),
    # empty and unclosed boxes
    (r"\boxed{} The answer is 5.", "5"),
    (r"\boxed{ }", None),
    (r"so \boxed{12", None),
    (r"so \boxed{\frac{1}{2}", None),
    (r"\boxed{5} again \boxed{5} again \boxed{", "5"),
    (r"} } \boxed{5} } {", "5"),
    # GSM8K lines
    ("2+3 = 5\n#### 5", "5"),
    ("2+3 = 5\n#### 1,450 \n", "1,450"),
    ("#### 5\nThen I check.\n#### 6", "6"),
    ("#### 5\nso \\boxed{6}", "6"),
    ("what #### 5", None),
    # phrases
    ("The answer is 5.", "5"),
    ("the final answer is: $\\frac{1}{2}$.", r"\frac{1}{2}"),
    ("**Answer:** 15 apples", "15 apples"),
    ("Final Answer: \\(x = 5\\) as shown", "x = 5"),
    ("The answer is $18.", "$18"),
    ("The answer is 3.5. I checked it.", "3.5"),
    ("The answer is $3$ and $5$.", "3, 5"),
    ("The answer is 4. No: the answer is 6.", "6"),
    ("To answer this we need 5 apples", None),
    # nothing
    ("I think it may be 5", None),
    ("", None),
]


@pytest.mark.parametrize(("completion", "expected"), ROWS)
def test_extraction_row(completion: str, expected: str | None) -> None:
    assert extract_answer(completion).answer == expected


def test_completion_cut_inside_its_box_is_truncated() -> None:
    assert extract_answer("the answer is 12, that is \\boxed{12").is_truncated
    assert not extract_answer("the answer is 12").is_truncated


def test_answer_of_a_million_characters_is_refused() -> None:
    extraction = extract_answer("\\boxed{" + "7" * 10**5 + "}")
    assert extraction.answer is None
    assert extraction.is_too_long
    assert extract_answer("\\boxed{" + "7" * 10**6 + "}").answer is None
    assert extract_answer("\\boxed{" + "7" * MAX_ANSWER_CHARS + "}").answer is not None


PIECES = [
    " ", "\n", "a ", "1 ", "\\", "{", "}", "\\{", "$", "#", "*", "`", "<", "$1$ ", "\\boxed{", "\\boxed{1}",
    "\\text{ }", "\\ ", "and ", "answer ", "the answer is ", "\n####", "#### ", "<answer>", "</answer>", "<think>",
    "</think>", "final answer: ",
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("\\boxed{5}", "\\boxed{6}"), ("#### ", "."), ("the answer is ", "x")]
)
def test_extraction_is_linear_in_the_length(before: str, after: str) -> None:
    """A tenfold text may cost no more than tenfold, and noise; a quadratic scan would cost a hundredfold."""

    def cpu_s(piece: str, length: int) -> float:
        text = before + piece * (length // len(piece)) + after
        seconds = []
        for _ in range(3):  # the best of three: the machine may be busy
            start = time.process_time()
            extract_answer(text)
            seconds.append(time.process_time() - start)
        return min(seconds)

    slow = {piece: (cpu_s(piece, 10_000), cpu_s(piece, 100_000)) for piece in PIECES}
    assert not {piece: seconds for piece, seconds in slow.items() if seconds[1] > 0.3 + 30 * seconds[0]}


def test_only_the_end_of_an_endless_completion_is_read() -> None:
    start = time.process_time()
    for piece in ("{", "word ", "\n", "\\boxed{"):
        assert extract_answer(piece * (10_000_000 // len(piece)) + "\n#### 5").answer in ("5", None)
    assert time.process_time() - start < 10.0
    assert extract_answer("<think>" + "x" * 10**6 + "</think>\\boxed{5}").answer == "5"


@pytest.mark.parametrize(
    "piece", ["answer ", "is ", "\\mathrm{m} ", "\\text{m}/", "1 ", "\\, ", "(1,", "a=", "\\cup ", "<", "one "]
)
def test_comparing_a_long_answer_is_quick(piece: str) -> None:
    start = time.process_time()
    for length in (280, MAX_ANSWER_CHARS):
        for ends in (("", ""), ("1", "1"), ("(", "}")):
            compare_answers("5", piece.join(ends) + piece * (length // len(piece)) + ends[1])
            compare_answers(ends[0] + piece * (length // len(piece)) + ends[1], "5 cm")
    assert time.process_time() - start < 2.0  # 0.05 s; a pattern that backtracks takes minutes


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>4</think><result>5</result>", "5"),
        ("[[THINK]]\\boxed{4}[[/THINK]]<result>5</result>", "5"),
        ("<result>4</result><answer>6</answer>", "4"),
    ],
)
def test_tags_can_be_named(completion: str, expected: str) -> None:
    tags = (("<think>", "</think>"), ("[[THINK]]", "[[/THINK]]"))
    assert extract_answer(completion, tags, (("<result>", "</result>"),)).answer == expected


def test_a_tag_left_open_is_truncated() -> None:
    for completion in ("<think>it is 5", "<answer>5", "\\boxed{5} <think>or"):
        assert extract_answer(completion).is_truncated


def test_what_no_file_can_hold_is_replaced() -> None:
    answer = extract_answer("\\boxed{5\ud800}").answer
    assert answer is not None
    assert answer.encode()


def test_unmarked_tail_is_bounded_and_starts_at_a_word() -> None:
    tail = unmarked_tail("word " * 1000 + "the end is 42")
    assert len(tail) <= 1000
    assert tail.startswith("word ")
    assert tail.endswith("42")
    assert len(unmarked_tail("x" * 10**6)) <= 1000


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("He sold 48+24 = <<48+24=72>>72 clips in May.", "72"),
        ("first 1 + 1 = 2\nso 92 - 35 = 57 seats are empty after the 2nd stop.", "57"),
        ("that is 3 * $1,450 = $4,350 a year", "$4,350"),
        ("8 / 40 * 100% = 20%", "20%"),
        ("x = 3y", None),
        ("x = 3 + y", None),
        ("x = 3 \\sqrt{2}", None),
        ("n = 2^{10}", None),
        ("there are 5 apples", None),
        ("2 + 2 = 4\nthere are 5 apples", None),
    ],
)
def test_last_result_row(tail: str, expected: str | None) -> None:
    assert last_result(tail) == expected
