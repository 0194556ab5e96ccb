"""Each setting is stated once: its description is in the docstring, on the settings page and in `SAGEConfig`'s help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sage_dpo.config
import sage_dpo.studies.config
from sage_dpo.config import RolloutSettings, RunConfig, Section, SelectorSettings
from sage_dpo.config.page import default_text, settings_page, values_text
from sage_dpo.studies.config import StudyConfig

ROOT = Path(__file__).parents[2]
SECTIONS = {
    value
    for module in (sage_dpo.config, sage_dpo.studies.config)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Section) and value is not Section
}


@pytest.mark.parametrize("section", sorted(SECTIONS, key=str), ids=lambda section: section.__name__)
def test_every_setting_is_described(section):
    undescribed = [name for name, field in section.model_fields.items() if not (field.description or "").endswith(".")]
    assert not undescribed
    assert all(f"    {name}: {field.description}" in section.__doc__ for name, field in section.model_fields.items())


def test_settings_end_in_settings():
    names = {section.__name__ for section in SECTIONS}
    assert {name for name in names if not name.endswith("Settings")} == {"RunConfig", "StudyConfig"}


def test_the_settings_page_is_what_the_command_prints():
    done = subprocess.run(
        [sys.executable, "-m", "sage_dpo", "settings"], env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == done.stdout, "write it again: sage-dpo settings > docs/settings.md"


def test_the_page_names_every_setting():
    page = settings_page(recipe=RunConfig, study=StudyConfig)
    for section in SECTIONS:
        for name in section.model_fields.keys() - {"kind"}:
            assert f"| `{name}` |" in page


def test_bounds_and_defaults_are_told_in_words():
    fields = {**SelectorSettings.model_fields, **RolloutSettings.model_fields}
    told = {name: (values_text(field), default_text(field)) for name, field in fields.items()}
    assert told["keep_ratio"] == ("number > 0, <= 1", "`0.5`")
    assert told["use_curvature"] == ("`true` or `false`", "`true`")
    assert told["cut"] == ("`stratum`, `global`", "`stratum`")
    assert told["implicit_beta"] == ("number > 0 or `null`", "`null`")
    assert told["engine"] == ("section", "its defaults")
