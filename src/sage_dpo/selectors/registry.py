"""The selectors by name, and how to add one (see docs/adding_a_selector.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sage_dpo.config import SelectorSettings
from sage_dpo.errors import ConfigError
from sage_dpo.selectors.base import Selector
from sage_dpo.selectors.by_margin import HighestMargin, LowestMargin
from sage_dpo.selectors.controls import All, Random
from sage_dpo.selectors.sage import Sage

SelectorFactory = Callable[[SelectorSettings], Selector]
Factory = TypeVar("Factory", bound=SelectorFactory)

SELECTORS: dict[str, SelectorFactory] = {
    "all": All,
    "random": Random,
    "lowest_margin": LowestMargin,
    "highest_margin": HighestMargin,
    "sage": Sage,
}
"""Name -> what builds the selector from its settings. Extend with `register_selector`."""


def register_selector(name: str) -> Callable[[Factory], Factory]:
    """Return a decorator that registers a selector class (or any `SelectorSettings -> Selector`) under `name`.

    Raises:
        ConfigError: the name is empty or taken.
    """
    if not name or name in SELECTORS:
        raise ConfigError(f"selector name {name!r} is empty or taken; registered: {', '.join(SELECTORS)}")

    def register(factory: Factory) -> Factory:
        SELECTORS[name] = factory
        return factory

    return register


def make_selector(settings: SelectorSettings) -> Selector:
    """Return the selector that `settings.selector` names.

    Raises:
        ConfigError: no selector of that name is registered.
    """
    if settings.selector not in SELECTORS:
        raise ConfigError(
            f"selector is {settings.selector!r}, expected one of {', '.join(SELECTORS)}; "
            "a selector of your own must be imported (and so registered) first"
        )
    return SELECTORS[settings.selector](settings)
