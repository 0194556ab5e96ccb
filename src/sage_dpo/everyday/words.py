"""The words of the questions."""

from __future__ import annotations

NAMES = (
    "Tom", "Ben", "Max", "Leo", "Sam", "Omar", "Paul", "Jack", "Ann", "Mia", "Eva", "Zoe", "Lin", "Ida", "Rosa", "Kate",
)  # fmt: skip
THINGS = ("apples", "pears", "coins", "stamps", "shells", "marbles", "cards", "books", "pens", "stones", "eggs", "cups")
