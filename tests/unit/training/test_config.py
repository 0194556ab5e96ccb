"""`SAGEConfig` says all that the selection's and the pool's settings say."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sage_dpo.config import PoolSettings, SelectorSettings
from sage_dpo.training.config import SAGEConfig


@pytest.mark.parametrize("settings", [SelectorSettings, PoolSettings])
def test_every_setting_is_a_field_with_its_default(settings: type[SelectorSettings] | type[PoolSettings]) -> None:
    defaults = {field.name: field.default for field in fields(SAGEConfig)}
    assert {name: defaults[name] for name in settings.model_fields} == settings().model_dump()
