"""What a study file may say, and what it is told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sage_dpo.errors import ConfigError
from sage_dpo.studies.config import load_study

STUDY = {"name": "s", "title": "A study", "recipe": "recipe.yaml", "seeds": [0, 1]}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}), encoding="utf-8")
    return path


def test_a_short_study_has_one_condition_with_every_arm(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    assert [(c.name, c.arms, c.set) for c in study.conditions] == [("base", None, {})]
    assert study.seeds == [0, 1]
    assert study.sweep is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": [1]}, "unknown key 'seedz'; did you mean 'seeds'"),
        ({"conditions": [{"name": "a", "armz": []}]}, r"unknown key 'conditions\.0\.armz'; did you mean 'arms'"),
        ({"arms": {"sage": {"selektion": {}}}}, "did you mean 'selection'"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [3, 3]}, r"seeds are \[3, 3\]; the same seed twice"),
        ({"seeds": [-1]}, r"seeds\.0"),
        ({"conditions": [{"name": "a"}, {"name": "a"}]}, "give each its own"),
        ({"conditions": [{"name": "../a"}]}, r"conditions\.0\.name"),
        ({"comparisons": {"alone": {"sage": "sage"}}}, r"\['alone'\] have fewer than two roles"),
        ({"sweep": {"key": "seed", "values": [1], "arms": ["sage"]}}, r"sweep\.key"),
        ({"sweep": {"key": "training.beta", "values": [], "arms": ["sage"]}}, r"sweep\.values"),
        ({"analyses": ["astrology"]}, r"analyses\.0"),
    ],
)
def test_mistakes_are_named_with_file_and_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load_study(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; give the path of a YAML file"):
        load_study(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["- a\n", "name: [\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        load_study(path)
