"""The selection step without TRL and without a model: the policy here is a table of numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from sage_dpo.config import PoolSettings, SelectorSettings
from sage_dpo.errors import DataError, EmptyPoolError, NumericalError, RunFolderError
from sage_dpo.forward import CompletionScores, as_completions
from sage_dpo.selection.checkpoint import load_state, save_state
from sage_dpo.selection.log import CandidateLog, read_candidates
from sage_dpo.selection.settings import StreamSettings
from sage_dpo.selection.source import PoolContents
from sage_dpo.selection.stream import CandidateStream

STEPS = 6


class TableModels:
    """Log-probability of a completion: minus its first token / 10, drifting by `drift` with every call."""

    reference_fingerprint = "table"

    def __init__(self, *, keeps_reference: bool = True, starts_as_reference: bool = True) -> None:
        self.keeps_reference, self.starts_as_reference = keeps_reference, starts_as_reference
        self.drift = 0.0
        self.scored: list[tuple[str, int, bool]] = []

    def score_policy(self, completions, *, with_informativeness=True, label=None):
        self.scored.append(("policy", len(completions), with_informativeness))
        return self._scores(completions, self.drift)

    def score_reference(self, completions):
        self.scored.append(("reference", len(completions), False))
        return self._scores(completions, 0.0)

    def _scores(self, completions, drift):
        logps = np.array([-c.completion_ids[0] * (0.1 + drift) for c in completions])
        lengths = np.array([len(c.completion_ids) for c in completions])
        return CompletionScores(logps, lengths * 0.5, lengths, sum(len(c) for c in completions))


class NewPairs:
    """Makes other pairs at each refresh; none at those named in `fails`."""

    def __init__(self, *fails: int) -> None:
        self.fails = fails

    def refresh(self, model, *, version, step):
        if version in self.fails:
            raise EmptyPoolError("nothing")
        return self.restore(version=version)

    def restore(self, *, version):
        return PoolContents(make_pairs(20, seed=version), np.linspace(0.1, 0.9, 20), competence=0.5)


def make_pairs(count: int = 24, seed: int = 0, **extra) -> Dataset:
    rng = np.random.default_rng(seed)
    ids = lambda: rng.integers(5, 60, size=rng.integers(2, 7)).tolist()  # noqa: E731
    return Dataset.from_list(
        [
            {
                "id": f"{seed}-{row}",
                "prompt_ids": ids(),
                "chosen_ids": [*ids(), 4],
                "rejected_ids": [*ids(), 4],
                **extra,
            }
            for row in range(count)
        ]
    )


def make_stream(models=None, *, pairs=None, log=None, source=None, pool=None, keep=4, exclusions=None, **selector):
    settings = StreamSettings(
        SelectorSettings(**selector), PoolSettings(**(pool or {})), keep=keep, seed=1, max_length=40, eos_token_id=4
    )
    return CandidateStream(
        make_pairs() if pairs is None else pairs,
        TableModels() if models is None else models,
        settings,
        source=source,
        exclusions=exclusions,
        log=log,
    )


def run(stream, first: int = 0, last: int = STEPS, *, refresh_at: int = 3) -> list[list[dict]]:
    chosen = []
    for step in range(first, last):
        batch = stream.next(step, progress=step / STEPS, microbatches=2)
        chosen.append([row for microbatch in batch.microbatches for row in batch.examples(microbatch)])
        stream.scorer._models.drift += 0.01
        if step + 1 == refresh_at:
            stream.refresh(None, step=step + 1)
    return chosen


VARIANTS = {
    "sage": {},
    "implicit": {"margin": "implicit"},
    "lowest_margin": {"selector": "lowest_margin"},
    "random": {"selector": "random"},
    "all": {"selector": "all", "keep_ratio": 1.0},
    "gated": {"gate": 0.0},
    "random, gated": {"selector": "random", "gate_quantile": 0.5, "gate_mean": "open"},
    "all, gated": {"selector": "all", "keep_ratio": 1.0, "gate": 0.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("source", [None, NewPairs()], ids=["fixed", "on_policy"])
def test_a_stream_resumed_from_its_files_chooses_what_the_uninterrupted_one_would_have(variant, source, tmp_path):
    def fresh(models, name):
        return make_stream(models, source=source, log=CandidateLog(tmp_path / name), **VARIANTS[variant])

    whole = fresh(TableModels(), "whole")
    whole.start()
    expected = run(whole)
    models = TableModels()
    stopped = fresh(models, "resumed")
    stopped.start()
    begun = run(stopped, last=4)
    stopped.log.flush()
    save_state(tmp_path, stopped.state_dict())
    run(stopped, first=4)  # goes on a little, and is killed
    stopped.log.flush()
    models.drift = 0.04
    resumed = fresh(models, "resumed")
    resumed.load_state_dict(load_state(tmp_path), step=4)
    assert begun + run(resumed, first=4) == expected
    assert resumed.counts == whole.counts
    for stream in (resumed, whole):
        stream.log.flush()
    logs = [[repr(row) for row in read_candidates(tmp_path / name)] for name in ("whole", "resumed")]
    assert logs[0] == logs[1]


def test_the_state_is_json_but_for_its_arrays(tmp_path):
    stream = make_stream()
    stream.start()
    run(stream)
    state = stream.state_dict()
    arrays = {name: state.pop(name) for name in ("success_rates", "reference", "scores")}
    assert json.loads(json.dumps(state)) == state
    assert arrays["success_rates"].shape == (24,)


def test_exclusions_of_the_data_and_of_refreshes_are_resumed(tmp_path):
    class LongPairs(NewPairs):
        def restore(self, *, version):
            rows = make_pairs(20, seed=version).to_list()
            rows[3]["chosen_ids"] = [7] * 100
            return PoolContents(Dataset.from_list(rows), np.linspace(0.1, 0.9, 20))

    stream = make_stream(source=LongPairs(), exclusions={"longer than max_length": 2})
    stream.start()
    run(stream)
    assert stream.exclusions == {"longer than max_length": 3}
    assert len(stream.pairs) == 19
    save_state(tmp_path, stream.state_dict())
    resumed = make_stream(source=LongPairs(), exclusions={"longer than max_length": 2})
    resumed.load_state_dict(load_state(tmp_path), step=STEPS)
    assert resumed.exclusions == stream.exclusions


def test_the_lowest_margins_are_trained_on_with_their_reference():
    stream = make_stream(selector="lowest_margin", cut="global", pool={"stratified": False})
    stream.start()
    batch = stream.next(0, progress=0.0, microbatches=2)
    assert [len(m.rows) for m in batch.microbatches] == [2, 2]
    for row in (row for m in batch.microbatches for row in batch.examples(m)):
        assert row["ref_chosen_logps"] == pytest.approx(-0.1 * row["chosen_ids"][0])
        assert row["ref_rejected_logps"] == pytest.approx(-0.1 * row["rejected_ids"][0])
    assert batch.metrics["kept_fraction"] == 0.5
    assert batch.metrics["margin_kept"] < batch.metrics["margin_dropped"]


@pytest.mark.parametrize(
    ("changes", "policy_calls"),
    [({}, [True] * 2), ({"use_informativeness": False}, [False] * 2), ({"selector": "random"}, [])],
)
def test_only_what_the_selector_needs_is_computed(changes, policy_calls):
    models = TableModels()
    stream = make_stream(models, pool={"stratified": False}, gate_quantile=1.0, **changes)
    stream.start()
    run(stream, last=2)
    assert [informativeness for whose, _, informativeness in models.scored if whose == "policy"] == policy_calls
    assert {whose for whose, count, _ in models.scored if count} >= {"reference"}


def test_reference_tokens_are_counted_once_for_each_completion():
    stream = make_stream(selector="all", keep_ratio=1.0, keep=24, pool={"stratified": False})
    stream.start()
    run(stream, last=2)
    tokens = sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in stream.pairs)
    assert stream.counts.as_dict() == {
        "scored": 0, "reference": tokens, "trained": 2 * tokens, "candidate_pairs": 48, "trained_pairs": 48,
    }  # fmt: skip


def test_without_a_reference_model_the_untrained_policy_serves_once_and_never_later():
    models = TableModels(keeps_reference=False)
    stream = make_stream(models)  # estimating the strata scores every pair with the untrained policy
    stream.start()
    run(stream)
    assert stream.counts.reference == 0
    lone = make_stream(TableModels(keeps_reference=False), pool={"stratified": False}, gate_quantile=1.0)
    lone.start()
    with pytest.raises(DataError, match="set precompute_ref_log_probs to False"):
        run(lone)


def test_precomputing_the_reference_scores_the_whole_pool_first():
    stream = make_stream(TableModels(keeps_reference=False), pool={"stratified": False})
    stream.start(precompute_reference=True)
    run(stream)
    assert len(stream.scorer.reference) == len(set(as_completions(make_pairs()[:])))


def test_a_refresh_without_pairs_keeps_the_pool_and_is_counted(caplog):
    stream = make_stream(source=NewPairs(1))
    stream.start()
    run(stream)
    assert (stream.pool.version, stream.attempted_refreshes) == (0, 1)
    assert "refresh 1 after step 3 keeps the pool of version 0: nothing" in caplog.text
    stream.refresh(None, step=STEPS)
    assert (stream.pool.version, len(stream.pairs)) == (2, 20)


def test_processes_share_the_kept_pairs_and_nothing_else_differs():
    streams = []
    for process in range(2):
        stream = make_stream()
        stream.settings = StreamSettings(
            stream.settings.selector, stream.settings.pool, keep=4, seed=1, processes=2, process=process
        )
        stream.start()
        streams.append(stream)
    batches = [stream.next(0, progress=0.0, microbatches=1) for stream in streams]
    assert batches[0].pairs == batches[1].pairs
    rows = [batch.microbatches[0].rows.tolist() for batch in batches]
    assert sorted(rows[0] + rows[1]) == [0, 1, 2, 3]
    assert streams[0].counts == streams[1].counts


def test_a_number_that_is_not_finite_names_the_pairs():
    class NaN(TableModels):
        def _scores(self, completions, drift):
            scores = super()._scores(completions, drift)
            scores.logps[2] = np.nan
            return scores

    stream = make_stream(NaN(), pool={"stratified": False}, gate_quantile=1.0)
    stream.start()
    with pytest.raises(NumericalError, match=r"1 policy log-probabilities are not finite at step 0 \(pairs \['0-"):
        stream.next(0, progress=0.0, microbatches=1)


def test_a_pool_smaller_than_a_step_is_an_error():
    with pytest.raises(EmptyPoolError, match="holds 3 pairs, fewer than the 4 trained on per step"):
        make_stream(pairs=make_pairs(3)).start()


def test_other_selection_settings_are_refused_on_resume():
    stream = make_stream()
    stream.start()
    with pytest.raises(RunFolderError, match="differing: damping, keep_count"):
        make_stream(keep=2, damping=0.5).load_state_dict(stream.state_dict(), step=0)


def test_a_stream_that_has_not_started_has_no_pool():
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        make_stream().next(0, progress=0.0, microbatches=1)


def test_an_odd_number_of_pairs_is_trained_on_by_two_processes(tmp_path):
    stream = make_stream(keep=3, log=CandidateLog(tmp_path), pool={"stratified": False})
    stream.settings = replace(stream.settings, processes=2)
    stream.start()
    stream.next(0, progress=0.0, microbatches=1)
    stream.log.flush()
    assert sum(row.is_kept for row in read_candidates(tmp_path)) == stream.counts.trained_pairs == 3


def test_a_checkpoint_that_lacks_a_file_is_an_error_with_the_remedy(tmp_path):
    stream = make_stream()
    stream.start()
    save_state(tmp_path, stream.state_dict())
    (tmp_path / "sage_scores.npz").unlink()
    with pytest.raises(RunFolderError, match=r"lacks sage_scores.npz.*earlier version.*start anew"):
        load_state(tmp_path)


# The gate


def test_nothing_above_the_gate_is_trained_on_and_all_of_it_is_logged(tmp_path):
    stream = make_stream(gate=0.0, pool={"stratified": False}, log=CandidateLog(tmp_path))
    stream.start()
    chosen = run(stream)
    stream.log.flush()
    rows = read_candidates(tmp_path)
    assert {row.is_open for row in rows} == {True, False}
    assert all(row.is_open == (row.margin <= 0.0) for row in rows)
    assert not any(row.is_kept and not row.is_open for row in rows)
    assert [len(step) for step in chosen] == [sum(r.is_kept for r in rows if r.step == s) for s in range(STEPS)]


@pytest.mark.parametrize("selector", [{"selector": "random"}, {"selector": "all", "keep_ratio": 1.0}])
def test_controls_are_gated_by_the_margin_too(selector):
    stream = make_stream(gate=0.0, pool={"stratified": False}, keep=8, **selector)
    stream.start()
    batch = stream.next(0, progress=0.0, microbatches=1)
    assert 0 < batch.metrics["gate/open"] < 1
    margins = [
        row["rejected_ids"][0] / len(row["rejected_ids"]) - row["chosen_ids"][0] / len(row["chosen_ids"])
        for row in batch.examples(batch.microbatches[0])
    ]
    assert max(margins) <= 0.0  # log-probability is -first token / 10


def test_a_step_with_every_pair_shut_trains_on_nothing():
    stream = make_stream(gate=-1e9, pool={"stratified": False})
    stream.start()
    batch = stream.next(0, progress=0.0, microbatches=2)
    assert [(m.rows.tolist(), m.weight) for m in batch.microbatches] == [([], 0.0), ([], 0.0)]
    assert (stream.counts.trained, stream.counts.trained_pairs, batch.metrics["gate/open"]) == (0, 0, 0.0)


@pytest.mark.parametrize(("mean", "weight"), [("asked", 3 / 4), ("open", 1.0)])
def test_the_loss_is_the_mean_over_asked_or_open_pairs(mean, weight):
    # log-probability is -token / 10: margins -1, -2, -3 are open, the others shut: 3 of the 4 asked for
    ids = [(20, 10), (30, 10), (40, 10), (10, 20), (10, 30), (10, 40), (10, 50), (10, 60)]
    rows = [{"prompt_ids": [1, row], "chosen_ids": [c], "rejected_ids": [r]} for row, (c, r) in enumerate(ids)]
    stream = make_stream(
        gate=0.0, gate_mean=mean, margin_temperature=1.0, pairs=Dataset.from_list(rows), pool={"stratified": False}
    )
    stream.start()
    (microbatch,) = stream.next(0, progress=0.0, microbatches=1).microbatches
    assert (len(microbatch.rows), microbatch.weight) == (3, weight)


def test_the_quantile_of_untuned_sureness_is_the_gate_whatever_tau_is():
    shares, thresholds = [], []
    for tau in (1.0, 10.0):
        stream = make_stream(gate_quantile=0.25, margin_temperature=tau, pool={"stratified": False})
        thresholds.append(stream.start()["gate/threshold"])
        shares.append(stream.next(0, progress=0.0, microbatches=1).metrics["gate/open"])
    assert thresholds[1] == pytest.approx(10 * thresholds[0])
    assert shares[0] == shares[1]


def test_a_pool_that_was_scored_for_its_strata_is_not_scored_again_for_its_gate():
    models = TableModels()
    stream = make_stream(models, gate_quantile=0.5)  # stratified by rank: every pair is scored
    stream.start()
    assert [count for whose, count, _ in models.scored if whose == "policy"] == [2 * len(stream.pairs)]
    sampled = make_stream(gate_quantile=0.5, pool={"stratified": False})  # 24 pairs: the sample is all of them
    sampled.start()
    assert stream.gate.threshold == sampled.gate.threshold


def test_a_pool_is_spent_when_a_whole_pass_found_too_little_open():
    stream = make_stream(gate=-1e9, pool={"stratified": False})  # 24 pairs, 8 candidates a step
    stream.start()
    spent = []
    for step in range(3):
        stream.next(step, progress=0.0, microbatches=1)
        spent.append(stream.gate.is_spent)
    assert spent == [False, False, True]
    assert not stream.can_renew


@pytest.mark.parametrize(("source", "quantile"), [(None, 0.5), (NewPairs(), 0.8)], ids=["fixed", "on_policy"])
def test_the_gate_stands_higher_where_refreshes_bring_new_pairs(source, quantile):
    by_default = make_stream(source=source).start()["gate/threshold"]
    assert by_default == make_stream(source=source, gate_quantile=quantile).start()["gate/threshold"]


def test_a_spent_pool_is_renewed_once_where_new_pairs_can_be_made():
    stream = make_stream(gate=-1e9, source=NewPairs())
    stream.start()
    for step in range(3):
        stream.next(step, progress=0.0, microbatches=1)
    assert (stream.gate.is_spent, stream.can_renew) == (True, True)
    stream.refresh(None, step=3)
    assert (stream.gate.is_spent, stream.can_renew, stream.pool.version) == (False, False, 1)
