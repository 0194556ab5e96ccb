"""Which column holds what: the notation, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from sage_dpo.data.fields import Fields, MissingField
from sage_dpo.errors import DataError

ROW: dict[str, Any] = {
    "answer": "7+8=15\n#### 15",
    "solution": r"First $\boxed{1}$, then $\boxed{\frac{5}{6}}$.",
    "reward": {"truth": {"value": "15"}, "text": '{"value": "16"}'},
    "prompt": [{"content": "be brief"}, {"content": "Compute."}],
    "final": ["1", "-1"],
    "listed": '["1", "-1"]',
    "a.b": "dotted",
    "last_box(x)": "a column",
    "number": 3,
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("number", 3),
        ("reward.truth.value", "15"),
        ("reward.text.value", "16"),  # text that holds JSON
        ("prompt.1.content", "Compute."),
        ("prompt.-1.content", "Compute."),
        ("final.0", "1"),
        ("a.b", "dotted"),
        ("last_box(x)", "a column"),
        ("last_box(solution)", r"\frac{5}{6}"),
        ("last_box(answer)", None),
        ("after_hashes(answer)", "15"),
        ("after_hashes(solution)", None),
        ("joined(final)", "1, -1"),
        ("joined(listed)", "1, -1"),
        ("joined(reward)", None),
        ("last_box(number)", None),
    ],
)
def test_an_expression_reads_what_it_says(source: str, expected: Any) -> None:
    assert Fields(("x",), {"x": source}).value("x", ROW) == expected


@pytest.mark.parametrize("source", ["nothing", "reward.nothing", "final.2", "final.x", "number.0", "last_box(nothing)"])
def test_what_a_row_lacks_is_told(source: str) -> None:
    with pytest.raises(MissingField):
        Fields(("x",), {"x": source}).value("x", ROW)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{1", None),
        (r"\boxed {1}", "1"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\fbox{2} and \boxed{}", ""),
    ],
)
def test_a_box_ends_with_its_own_brace(text: str, box: str | None) -> None:
    assert Fields(("x",), {"x": "last_box(t)"}).value("x", {"t": text}) == box


def test_an_unknown_name_or_function_is_refused() -> None:
    with pytest.raises(DataError, match=r"fields has the keys \['y'\], expected some of x; the key is ours"):
        Fields(("x",), {"y": "a"})
    with pytest.raises(DataError, match=r"'eval\(x\)' is no known function; expected last_box, after_hashes, joined"):
        Fields(("x",), {"x": "eval(x)"})


def test_nothing_leaves_a_name_out() -> None:
    assert not Fields(("x",), {"x": None}).has("x", {"x": 1})
    assert not Fields(("x",), {"x": ""}).has("x", {"x": 1})
    assert Fields(("x",)).has("x", {"x": 1})
