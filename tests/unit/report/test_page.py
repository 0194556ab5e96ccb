"""The page: its numbers are the run's, its text is escaped, it needs nothing else, and it survives what is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sage_dpo.errors import DataError
from sage_dpo.records import PairScore, PreferencePair
from sage_dpo.report import write_report
from sage_dpo.report.page import MAX_POINTS
from sage_dpo.report.run import read_run
from sage_dpo.storage import read_json, read_records, write_json, write_records

pytestmark = pytest.mark.slow  # every test draws a page with its plots

RunBuilder = Callable[..., Path]
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Text(HTMLParser):
    """Collects visible text, tags and attributes, and checks that tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes, self.open = "", [], [], []  # type: ignore[var-annotated]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(build_run: RunBuilder) -> Path:
    root = build_run()
    write_report(root)
    return root


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small_run(build_run: RunBuilder) -> Path:
    return build_run(("vanilla", "dpo_full", "sage"), steps=4)


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    """A copy of a smaller run that a test may damage."""
    return Path(shutil.copytree(small_run, tmp_path / "copy"))


def rewrite(root: Path) -> str:
    return write_report(root).read_text(encoding="utf-8")


def test_page_is_well_formed_and_sections_are_in_place(page: str) -> None:
    parsed = Text(page)
    assert parsed.open == []
    assert ("id", "result") in parsed.attributes
    assert ("id", "made") in parsed.attributes


def test_every_accuracy_and_token_count_of_the_summary_is_printed(run: Path, page: str) -> None:
    text = Text(page).text
    for arm in read_json(run / "summary.json")["arms"].values():
        for value in (arm["average"], *arm["suites"].values()):
            assert f"{100 * value:.1f}" in text
        assert f"{arm['train_tokens']:,}" in text


def test_difference_whose_interval_includes_zero_is_marked(page: str) -> None:
    row = next(row for row in re.findall(r"<tr>.*?</tr>", page) if "sage − lowest_margin" in row)
    assert "+1.1" in row
    assert "not distinguishable: the interval includes 0" in row


def test_markdown_table_is_written_beside_the_page(run: Path) -> None:
    table = (run / "report" / "table.md").read_text(encoding="utf-8")
    assert "| average | 47.1 (45.1 to 49.1) |" in table
    assert "**61.3**" in table


def test_completions_are_escaped(page: str) -> None:
    assert "&lt;script&gt;alert(" in page, "the hostile completion should be among the examples"
    tags = set(Text(page).tags)
    assert "script" not in tags
    assert "img" not in tags


def test_page_needs_no_other_resource(page: str) -> None:
    attributes = Text(page).attributes
    links = [value or "" for name, value in attributes if name in ("href", "src", "xlink:href", "data", "action")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


def test_every_reference_inside_a_drawing_points_to_one_definition(page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'<use href="#([^"]+)"', page)) <= set(ids)


def test_every_drawing_has_words_for_those_who_cannot_see_it(page: str) -> None:
    panels = re.findall(r'<svg class="panel"[^>]*>', page)
    assert len(panels) > 20
    labels = [re.search(r'role="img" aria-label="([^"]{20,})"', panel) for panel in panels]
    assert all(labels)


def test_drawings_use_colours_that_follow_light_and_dark(page: str) -> None:
    drawings = "".join(re.findall(r'<svg class="panel".*?</svg>', page, flags=re.DOTALL))
    bare = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawings))
    assert bare == set()


def test_same_folder_gives_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy, tmp_path / "elsewhere"))
    assert rewrite(copy) == rewrite(other)
    assert (copy / "report" / "table.md").read_bytes() == (other / "report" / "table.md").read_bytes()


def test_examples_are_the_extremes_of_the_recorded_scores(run: Path, page: str) -> None:
    files = sorted((run / "arms" / "sage").glob("refresh-*/scores.parquet"))
    scores = [score for file in files for score in read_records(file, PairScore)]
    best = max((s for s in scores if s.is_kept), key=lambda s: s.utility)
    worst = min((s for s in scores if not s.is_kept), key=lambda s: s.utility)
    examples = page[page.index('id="examples"') :]
    assert examples.index(f"pair {best.pair_id},") < examples.index("Dropped, lowest utility")
    assert f"pair {worst.pair_id}," in examples
    assert f"<dd>{best.utility:.3g}</dd>" in examples


def test_texts_of_the_shared_first_pool_are_found(page: str) -> None:
    examples = page[page.index('id="examples"') : page.index('id="made"')]
    assert "refresh 0" in examples
    assert "not in the pairs file" not in examples


def test_stages_versions_seed_and_exclusions_are_told(page: str) -> None:
    text = Text(page).text
    for claim in ("seed 7", "torch\xa02.13.0", "duplicates: 2", "7.2 min", "no correct sample", "over long"):
        assert claim in text


def test_selectors_without_scores_are_named_not_drawn(page: str) -> None:
    text = Text(page).text
    assert "plain and random selection score nothing): dpo_full, dpo_random" in text
    assert "No stability plane, because the selector does not use informativeness: lowest_margin" in text
    assert "Stability and informativeness of the candidates: sage" in text


def test_complete_run_reports_nothing_missing(page: str) -> None:
    assert "What is missing" not in page


def test_interrupted_run_without_summary_still_gets_a_page(copy: Path) -> None:
    (copy / "summary.json").unlink()
    page = rewrite(copy)
    assert "summary.json is not there" in page
    assert "No arm has been evaluated." in page
    assert "Curves over training" in page
    assert not (copy / "report" / "table.md").exists()


def test_bare_folder_with_a_manifest_gets_a_page(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"versions": {}, "stages": {}})
    page = rewrite(tmp_path)
    assert Text(page).open == []
    assert "No metrics were logged." in page


def test_missing_scores_metrics_and_config_are_named(copy: Path) -> None:
    for file in (copy / "arms" / "sage").glob("refresh-*/scores.parquet"):
        file.unlink()
    (copy / "arms" / "sage" / "metrics.jsonl").unlink()
    (copy / "config.yaml").unlink()
    page = rewrite(copy)
    assert "Arm sage has no scores" in page
    assert "Arm sage has no metrics.jsonl" in page
    assert "The configuration cannot be read" in page


def test_damaged_files_are_counted_not_fatal(copy: Path) -> None:
    (copy / "arms" / "sage" / "refresh-001" / "scores.parquet").write_bytes(b"PAR1 cut off")
    metrics = copy / "arms" / "sage" / "metrics.jsonl"
    metrics.write_text(metrics.read_text(encoding="utf-8") + '{"step": 99, "lo', encoding="utf-8")
    (copy / "manifest.json").write_text("{", encoding="utf-8")
    text = Text(rewrite(copy)).text
    assert "sage/refresh-001/scores.parquet cannot be read" in text
    assert "lines of metrics.jsonl are unreadable and left out" in text
    assert "manifest.json is damaged" in text


def test_single_arm_run_reports(build_run: RunBuilder) -> None:
    page = rewrite(build_run(("sage",), steps=2))
    assert "1 arm," in page
    assert Text(page).open == []


def test_non_finite_scores_are_left_out_and_counted(copy: Path) -> None:
    path = copy / "arms" / "sage" / "refresh-002" / "scores.parquet"
    scores = read_records(path, PairScore)
    bad = [replace(score, margin=float("nan")) for score in scores[:5]]
    write_records(path, [*bad, *scores[5:]], PairScore)
    refresh = read_run(copy).arms["sage"].refreshes[2]
    assert refresh.counts["unscored candidates"] == 5
    assert refresh.scores is not None
    assert len(refresh.scores["margin"]) == len(scores) - 5
    assert np.isfinite(refresh.scores["margin"]).all()
    assert "nan" not in Text(rewrite(copy)).text.lower().split()


def test_candidates_logged_without_scores_are_not_drawn(copy: Path) -> None:
    """Plain and random selection log which pairs they kept, with NaN for every number."""
    nan = dict.fromkeys(("margin", "gradient_signal", "curvature", "informativeness", "utility"), float("nan"))
    for scored in (copy / "arms" / "sage").glob("refresh-*/scores.parquet"):
        rows = [replace(score, **nan) for score in read_records(scored, PairScore)]
        write_records(copy / "arms" / "dpo_full" / scored.parent.name / "scores.parquet", rows, PairScore)
    assert all(refresh.scores is None for refresh in read_run(copy).arms["dpo_full"].refreshes)
    text = Text(rewrite(copy)).text
    assert "plain and random selection score nothing): dpo_full" in text
    assert "nan" not in text.lower().split()


def test_long_run_is_thinned_to_a_small_page_and_says_so(copy: Path) -> None:
    path = copy / "arms" / "sage" / "refresh-002" / "scores.parquet"
    write_records(path, read_records(path, PairScore) * 60, PairScore)
    metrics = [{"step": step, "loss": 0.5, "probe/accuracy": 0.5} for step in range(20_000)]
    (copy / "arms" / "sage" / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)), encoding="utf-8")
    page = rewrite(copy)
    assert len(page.encode()) < 3_000_000
    assert page.count("<use ") < 2 * MAX_POINTS
    assert "drawn at random with a fixed seed" in page


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run folder"):
        write_report(tmp_path)


def test_fixed_preference_data_shows_the_strata_that_were_drawn(copy: Path) -> None:
    """Fixed data has no verdicts and need not know success rates: shares fall back on the scored candidates."""
    for folder in (copy / "first-pool", *copy.glob("arms/*/refresh-*")):
        for name in ("completions.parquet", "verdicts.parquet", "info.json"):
            (folder / name).unlink(missing_ok=True)
        if (folder / "pairs.parquet").exists():
            pairs = read_records(folder / "pairs.parquet", PreferencePair)
            bare = [replace(pair, success_rate=None, prompt="", chosen="", rejected="") for pair in pairs]
            write_records(folder / "pairs.parquet", bare, PreferencePair)
    text = Text(rewrite(copy)).text
    assert "share of candidates, %" in text
    assert "sage: shares of candidates." in text
    assert "not stored as text" in text
    assert "success rateunknown" in text.replace("\n", "")


def test_hostile_arm_names_are_escaped_everywhere(copy: Path) -> None:
    hostile = "<script>alert(1)</script> $x$"
    values = read_json(copy / "summary.json")
    for part in ("arms", "intervals"):
        values[part][hostile] = values[part]["sage"]
    values["comparisons"][f"{hostile}_minus_sage"] = {"mean": 0.0, "low": -0.1, "high": 0.1}
    write_json(copy / "summary.json", values)
    page = rewrite(copy)
    assert "script" not in Text(page).tags
    assert hostile in Text(page).text


def test_tuning_run_without_evaluation_shows_curves_and_costs(tmp_path: Path) -> None:
    arms = [f"{arm}@{rate}" for arm in ("dpo", "random", "sage") for rate in ("5e-05", "0.0001", "0.0002", "0.0004")]
    results = {arm: {"average": None, "suites": {}, "train_tokens": 1000 + i} for i, arm in enumerate(arms)}
    write_json(tmp_path / "summary.json", {"name": "tuning", "seed": 0, "arms": results})
    for arm in arms:
        rows = [{"step": step, "probe/accuracy": 0.4 + 0.01 * step} for step in (0, 10)]
        path = tmp_path / "arms" / arm / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    page = rewrite(tmp_path)
    assert "summary.json holds no accuracies" in page
    assert "Cost of each arm" in page
    assert "from 40 to 50" in page
    assert "Accuracy in percent with" not in page
