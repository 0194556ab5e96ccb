"""Selecting from a preference data set once, under a policy as it is: what `sage-dpo select` does.

    look at every row -> score what has not been scored, block by block -> cut over the whole data set -> write the rows

Only numbers are held of all rows; the rows themselves are read again for writing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

from sage_dpo.config import PolicySettings, PoolSettings, SelectorSettings, TrainingSettings
from sage_dpo.data.score_columns import DECISIONS, PREFIX, SCORES
from sage_dpo.errors import ConfigError, EmptyPoolError
from sage_dpo.manifest import locked
from sage_dpo.pairs import PairTokenizer, PreferenceData, PreferenceStream, open_preferences
from sage_dpo.pairs.preference_stream import BLOCK_ROWS
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.pipeline.score_file import (
    NUMBERS,
    USABLE,
    ScoreFile,
    candidate_scores,
    excluded_state,
    new_records,
    reason_of,
)
from sage_dpo.pipeline.selected_rows import write_selected
from sage_dpo.selection.models import LoadedModels
from sage_dpo.selection.reference import model_fingerprint
from sage_dpo.selection.scoring import PairScorer
from sage_dpo.selection.whole import WholeCut, cut_whole
from sage_dpo.selectors import make_selector


@dataclass(frozen=True)
class SelectRequest:
    """What to select from, how, and where to.

    Attributes:
        policy: scores the pairs.
        data: file, folder or hub id of preference data.
        output: `.jsonl` or `.parquet`.
        selection, pool: how to rank, shut and cut.
        training: `max_length` and `score_token_budget` are used.
        seed: of a random selector.
        fields, split: as for `load_preference_data`.
        annotate: write dropped rows, too, and of every row why.
        with_scores: add the score columns.
        fresh: discard what an interrupted selection has left.
    """

    policy: PolicySettings
    data: str
    output: Path
    selection: SelectorSettings = field(default_factory=SelectorSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = 0
    fields: Mapping[str, str | None] | None = None
    split: str = "train"
    annotate: bool = False
    with_scores: bool = True
    fresh: bool = False

    @property
    def added(self) -> dict[str, type]:
        """Columns that are added, with their types."""
        columns = {**(SCORES if self.with_scores else {}), **(DECISIONS if self.annotate else {})}
        return {f"{PREFIX}{name}": kind for name, kind in columns.items()}

    @property
    def parts(self) -> Path:
        """The folder of numbers that are not all there yet."""
        return self.output.with_name(f"{self.output.name}.parts")


def select_pairs(request: SelectRequest, *, progress: bool) -> dict[str, Any]:
    """Write the rows that a selector keeps, or all of them with the reason; return what became of them.

    Interrupted, the same call continues with the block of rows it was at, and writes the same file.

    Returns:
        `{"rows", "usable", "kept", "shut", "below", "excluded": {reason: count}, "gate"}` and `"strata"`, of each
        `[kept, usable]`.

    Raises:
        ConfigError: a margin that needs a reference, an output among the data, or columns that are there already.
        DataError: data that cannot be read, or not be written as the output's kind.
        EmptyPoolError: no row can be trained on, or the gate shuts every pair.
        RunFolderError: an interrupted selection was made with something else, or another process is at it.
    """
    _check_request(request)
    stream = open_preferences(
        request.data,
        split=request.split,
        fields=request.fields,
        with_schema=request.output.suffix == ".parquet",
        progress=progress,
    )
    taken = sorted(set(request.added) & set(stream.columns))
    if taken:
        raise ConfigError(
            f"{stream.name} has the columns {', '.join(taken)} already; give the data from before, drop these columns, "
            "or write none: --no-scores without --annotate"
        )
    if request.fresh and request.parts.is_dir():
        with locked(request.parts):
            shutil.rmtree(request.parts)
    with locked(request.parts):
        records = _score(request, stream, progress)
        cut, summary = _cut(request, stream, records)
        write_selected(
            request.output, stream, records["state"], cut, request.added, annotate=request.annotate, progress=progress
        )
        shutil.rmtree(request.parts)
    return summary


def _check_request(request: SelectRequest) -> None:
    if make_selector(request.selection).needs_reference:
        raise ConfigError(
            f"margin {request.selection.margin!r} compares with a reference policy, and there is none; select with "
            "margin=confidence"
        )
    if request.annotate and not request.with_scores:
        raise ConfigError("--annotate adds the scores of every row, --no-scores leaves them out; give one of the two")
    data, output = Path(request.data), request.output.resolve()
    if data.exists() and (data.resolve() == output or data.resolve() in output.parents):
        raise ConfigError(f"--output {request.output} lies in the data {data}, which is only read; give another name")


def _score(request: SelectRequest, stream: PreferenceStream, progress: bool) -> NDArray[Any]:
    """Return the records of all rows; those that are missing are made."""
    selector = make_selector(request.selection)
    tokenizer = load_tokenizer(request.policy)
    scorer = model = None
    if selector.needs_scores:
        model = load_model(request.policy)
        scorer = PairScorer(LoadedModels(model, token_budget=request.training.score_token_budget))
    made_with = {
        "model": request.policy.path,
        "revision": request.policy.revision,
        "dtype": request.policy.dtype,
        "attn_implementation": request.policy.attn_implementation,
        "weights": None if model is None else model_fingerprint(model),
        "tokenizer": _tokenizer_digest(tokenizer),
        "data": stream.source.digest(),
        "fields": json.dumps(dict(request.fields or {}), sort_keys=True),
        "max_length": request.training.max_length,
        "score_token_budget": request.training.score_token_budget,
        "informativeness": selector.needs_scores and selector.needs_informativeness,
        "block_rows": BLOCK_ROWS,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    file = ScoreFile(request.parts, made_with)
    tokenized = PairTokenizer(tokenizer, request.training.max_length)
    finished, first, usable = file.rows, 0, 0
    with tqdm(total=stream.count, desc="scoring", unit="row", disable=not progress) as bar:
        for block, data in stream.blocks():
            last = first + len(block.rows)
            if first <= finished < last:
                file.truncate(first)  # the block that was being written, if any
            if last > finished:
                records = _score_block(
                    data, first, tokenized, scorer, with_informativeness=bool(made_with["informativeness"])
                )
                file.append(records)
                usable += int((records["state"] == USABLE).sum())
            first = last
            bar.update(len(block.rows))
    tokenized.report_marks(usable)
    return file.read()


def _score_block(
    data: PreferenceData,
    first: int,
    tokenized: PairTokenizer,
    scorer: PairScorer | None,
    *,
    with_informativeness: bool,
) -> NDArray[Any]:
    """Return the records of a block whose first row has the number `first`."""
    records = new_records(len(data))
    usable, pairs = [], []
    for index in range(len(data)):
        pair = tokenized.pair(first + index, data[index], data.places[index], is_text=data.reader is not None)
        if isinstance(pair, str):
            records["state"][index] = excluded_state(pair)
            continue
        usable.append(index)
        pairs.append(pair)
        if pair.success_rate is not None:
            records["success_rate"][index] = pair.success_rate
    records["state"][usable] = USABLE
    if scorer is None or not pairs:
        return records
    names = ("id", "prompt_ids", "chosen_ids", "rejected_ids")
    columns = {name: [getattr(pair, name) for pair in pairs] for name in names}
    scores, _ = scorer.score(columns, with_informativeness=with_informativeness)
    for name in NUMBERS:
        column = getattr(scores, name)
        if column is not None:
            records[name][usable] = column
    return records


def _cut(request: SelectRequest, stream: PreferenceStream, records: NDArray[Any]) -> tuple[WholeCut, dict[str, Any]]:
    states = np.asarray(records["state"])
    counts = Counter(states.tolist())
    excluded = {reason_of(state): count for state, count in sorted(counts.items()) if state != USABLE}
    usable = records[states == USABLE]
    if not len(usable):
        raise EmptyPoolError(f"{stream.name} holds no usable pair, excluded: {excluded}; check the data", excluded)
    rates = np.asarray(usable["success_rate"])
    cut = cut_whole(
        len(usable),
        candidate_scores(usable) if make_selector(request.selection).needs_scores else None,
        None if np.isnan(rates).any() else rates,
        request.selection,
        request.pool,
        seed=request.seed,
    )
    kept, shut = len(cut.selection.kept), int((cut.ranks == 0).sum())
    if not kept and not request.annotate:
        raise EmptyPoolError(
            f"the gate shuts all {len(usable)} pairs, whose margins are above {cut.gate:g}; raise --gate, or see the "
            "margins with --annotate (the scores are kept: the same command with another gate scores nothing again)"
        )
    summary = {
        "rows": len(states),
        "usable": len(usable),
        "kept": kept,
        "shut": shut,
        "below": len(usable) - kept - shut,
        "excluded": excluded,
        "gate": cut.gate,
        "strata": cut.by_stratum(),
    }
    return cut, summary


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.dumps(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    return hashlib.sha256(f"{words}\0{tokenizer.chat_template}\0{tokenizer.eos_token}".encode()).hexdigest()
