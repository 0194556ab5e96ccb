"""Names: one class has one name in the whole package, so that a name in an error or in a text is enough to find it.

And what no error says.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "sage_dpo"


def test_no_two_classes_have_one_name():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    names = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_error_advises_to_delete_what_is_the_users():
    advice = re.compile(r"(?<!not )\b(delete|remove) (it|this|that|the|one|your)\b", re.IGNORECASE)
    raised = [
        (path.name, part.value)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    assert len(raised) > 100
    assert [(name, text) for name, text in raised if advice.search(text)] == []
