"""Read a small part of LaTeX as a tree, the way math-verify reads it; `None` for everything else. Pure.

    sum      = ["+" | "-"] product {("+" | "-") product}
    product  = factors {("\\cdot" | "\\times" | "*" | "/") ["+" | "-"] factors}
    factors  = postfix {postfix}                           a product without a sign, which binds tighter than `/`
    postfix  = atom ["^" exponent] {"!"}
    atom     = integer | letter | \\pi | (sum) | {sum} | \\frac{}{} | \\binom{}{} | \\sqrt{} | \\sqrt[n]{}
             | (\\sum | \\prod)_{k=sum}^exponent product

Left out is whatever has a second reading: decimals, `x(y)` (a function), words, `e`, `i`, `d`, and a number after
another one (`2\\frac{1}{2}` is a mixed number, and math-verify takes `2(3)` for one too). Letters are lower-cased, as
math-verify does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_MAX_CHARS = 500
_MAX_DEPTH = 40
_MAX_DIGITS = 400
_TOKEN = re.compile(r"\s*(\\[A-Za-z]+|\d+|[A-Za-z]|[-+*/^!(){}\[\]=_])", re.ASCII)
_TIMES = (r"\cdot", r"\times", "*")
_NOT_VARIABLES = "dei"
_STARTS_ATOM = re.compile(r"\d|[A-Za-z]|[({]|\\(?:pi|frac|binom|sqrt|sum|prod)$")
_RANGES = {r"\sum": "range sum", r"\prod": "range product"}


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with its operands.

    Attributes:
        kind: `number`, `symbol`, `pi`; `sum`, `product` (of any number of parts); `quotient`, `power`, `binomial` (of
            two); `root`, `factorial` (of one); `range sum`, `range product` (of lower limit, upper limit, body).
        parts: the operands.
        value: a number's value; a root's index.
        name: a symbol's letter; the index letter of a range.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    value: int = 0
    name: str = ""

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()


class _UnreadableError(Exception):
    """Not in the grammar above."""


@lru_cache(maxsize=2048)
def read_expression(text: str) -> Node | None:
    """Return the tree of a normalised answer (`answers.normalize_answer`), `None` if it is not in the grammar."""
    if len(text) > _MAX_CHARS:
        return None
    try:
        return _Reader(_tokens(text)).read()
    except _UnreadableError:
        return None


def _tokens(text: str) -> list[str]:
    tokens, position, text = [], 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _UnreadableError
        tokens.append(match.group(1))
        position = match.end()
    return tokens


class _Reader:
    """Recursive descent over a list of tokens; the methods are the rules of the grammar."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [*tokens, ""]
        self._position = 0
        self._depth = 0

    def read(self) -> Node:
        node = self._sum()
        if self._next:
            raise _UnreadableError
        return node

    @property
    def _next(self) -> str:
        return self._tokens[self._position]

    def _take(self) -> str:
        token = self._next
        self._position += bool(token)  # the end is never passed
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise _UnreadableError

    def _sum(self, end: str = "") -> Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadableError
        parts = [self._signed_product()]
        while self._next in ("+", "-"):
            parts.append(self._signed_product())
        if end:
            self._expect(end)
        self._depth -= 1
        return parts[0] if len(parts) == 1 else Node("sum", tuple(parts))

    def _signed_product(self) -> Node:
        sign = self._take() if self._next in ("+", "-") else "+"
        return _signed(sign, self._product())

    def _product(self) -> Node:
        node = self._factors()
        while self._next in (*_TIMES, "/"):
            operator = self._take()
            sign = self._take() if self._next in ("+", "-") else "+"
            operand = _signed(sign, self._factors(is_denominator=operator == "/"))
            node = Node("quotient" if operator == "/" else "product", (node, operand))
        return node

    def _factors(self, is_denominator: bool = False) -> Node:
        factors = [self._postfix()]
        while _STARTS_ATOM.match(self._next):
            if is_denominator:  # 1/2x: a half of x for people, 1/(2x) for math-verify
                raise _UnreadableError
            previous = self._tokens[self._position - 1]
            if previous.isalpha() and (self._next == "(" or self._next.isalpha()):
                raise _UnreadableError
            factors.append(self._postfix())
        if any(_is_rational(factor) for factor in factors[1:]):
            raise _UnreadableError
        return factors[0] if len(factors) == 1 else Node("product", tuple(factors))

    def _postfix(self) -> Node:
        node = self._atom()
        if self._next == "^":
            self._take()
            node = Node("power", (node, self._exponent()))
        while self._next == "!":
            self._take()
            node = Node("factorial", (node,))
        if self._next == "^":
            raise _UnreadableError
        return node

    def _exponent(self) -> Node:
        if self._next == "{":
            self._take()
            return self._sum("}")
        if len(self._next) == 1 and self._next.isalnum():
            return self._atom()
        raise _UnreadableError

    def _atom(self) -> Node:
        token = self._take()
        if token.isdigit():
            if len(token) > _MAX_DIGITS:
                raise _UnreadableError
            return Node("number", value=int(token))
        if token.isalpha() and token.lower() not in _NOT_VARIABLES:
            return Node("symbol", name=token.lower())
        match token:
            case r"\pi":
                return Node("pi")
            case "(":
                return self._sum(")")
            case "{":
                return self._sum("}")
            case r"\frac" | r"\binom":
                return Node("quotient" if token == r"\frac" else "binomial", (self._group(), self._group()))
            case r"\sqrt":
                return self._root()
            case r"\sum" | r"\prod":
                return self._range(_RANGES[token])
        raise _UnreadableError

    def _group(self) -> Node:
        self._expect("{")
        return self._sum("}")

    def _root(self) -> Node:
        index = "2"
        if self._next == "[":
            self._take()
            index = self._take()
            self._expect("]")
        if not index.isdigit() or len(index) > 2 or int(index) < 2:
            raise _UnreadableError
        return Node("root", (self._group(),), value=int(index))

    def _range(self, kind: str) -> Node:
        self._expect("_")
        self._expect("{")
        letter = self._take().lower()
        if not letter.isalpha() or letter in ("d", "e"):
            raise _UnreadableError
        self._expect("=")
        lower = self._sum("}")
        self._expect("^")
        upper = self._exponent()
        return Node(kind, (lower, upper, self._product()), name=letter)


def _signed(sign: str, node: Node) -> Node:
    return Node("product", (Node("number", value=-1), node)) if sign == "-" else node


def _is_rational(node: Node) -> bool:
    return not any(part.kind in ("symbol", "pi", "root") for part in node.walk())
