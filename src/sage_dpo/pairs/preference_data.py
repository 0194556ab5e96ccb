"""Preference data sets, from files, folders, the hub or memory, as rows in TRL's formats."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dpo.data.preferences import TOKENS, PreferenceReader, repeats_prompt
from sage_dpo.data.rows import first_line, read_rows
from sage_dpo.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class PreferenceData(Sequence[Mapping[str, Any]]):
    """Preference rows in TRL's form, each with its place.

    Attributes:
        rows: as they came: token ids (`prompt_ids`, `chosen_ids`, `rejected_ids`), or what `reader` reads.
        places: what a message calls each.
        reader: of rows that are text; `None` for token ids.
        strips_prompt: whether every row's texts begin with its prompt, which is then taken off.
        name: what a message calls the data.
    """

    rows: Sequence[Mapping[str, Any]]
    places: Sequence[str]
    reader: PreferenceReader | None
    strips_prompt: bool = False
    name: str = "the data set"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if self.reader is None:
            return self.rows[index]
        return self.reader.read(self.rows[index], self.places[index], strips_prompt=self.strips_prompt)

    def select(self, numbers: Sequence[int]) -> PreferenceData:
        """Return some of the rows."""
        rows, places = [self.rows[n] for n in numbers], [self.places[n] for n in numbers]
        return PreferenceData(rows, places, self.reader, self.strips_prompt, self.name)


def load_preference_data(
    source: str | Path | Dataset,
    *,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
    fields: Mapping[str, str | None] | None = None,
) -> PreferenceData:
    """Load a preference data set; every row is checked.

    Args:
        source: a `Dataset`, a JSON, JSON Lines or Parquet file (also one that `sage-dpo pairs` wrote, whose token ids
            are kept), a folder of these or one saved with `save_to_disk`, or a hub id.
        split: of a saved `DatasetDict` or a hub data set.
        revision: hub commit.
        limit: the first so many rows only.
        fields: which columns hold what, as `{"prompt": "question"}`; see `sage_dpo.data.fields` and
            `sage_dpo.data.preferences.NAMES`.

    Raises:
        DataError: nothing readable there, no such split, no row, or a row that cannot be read as meant.
    """
    name = _name_of(source)
    places: list[str] = []
    rows: list[Mapping[str, Any]] = []
    for place, row in _rows(source, split, revision):
        if limit is not None and len(rows) == limit:
            break
        places.append(place)
        rows.append(row)
    columns = dict.fromkeys(column for row in rows for column in row)
    reader, strips_prompt = find_reader(columns, zip(places, rows, strict=True), fields, name)
    return PreferenceData(rows, places, reader, strips_prompt, name)


def find_reader(
    columns: Iterable[str],
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    fields: Mapping[str, str | None] | None,
    name: str,
) -> tuple[PreferenceReader | None, bool]:
    """Return what reads the rows of a data set, and whether all texts begin with their prompt; every row is checked.

    Args:
        columns: of all rows.
        rows: (place, row), gone through once.
        fields: which columns hold what.
        name: what a message calls the data set.

    Raises:
        DataError: no row, or one that cannot be read as meant.
    """
    columns, rows = list(columns), iter(rows)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name} has no rows; give data with one preference pair a row")
    reader = None if set(TOKENS) <= set(columns) else PreferenceReader(columns, fields, name)
    count = repeats = 0
    for place, row in itertools.chain([first], rows):
        count += 1
        repeats += reader is not None and repeats_prompt(reader.read(row, place))
    if repeats:
        done = "taken off" if repeats == count else "left, as the others do not"
        _logger.warning(f"{name}: in {repeats} of {count} rows both answers begin with the prompt: {done}")
    if reader is not None and reader.ignored:
        _logger.warning(f"{name}: columns that are not read: {', '.join(reader.ignored)}")
    return reader, repeats == count


def resolve(source: str | Path | Dataset, split: str, revision: str | None) -> Path | Dataset:
    """Return the path of local data, or the data set of a hub id, loaded; an open one as it is.

    Raises:
        DataError: a hub data set that cannot be loaded.
    """
    if not isinstance(source, str | Path):
        return source
    text = str(source)
    if Path(source).exists() or not _HUB_ID.fullmatch(text) or Path(text).suffix in (".jsonl", ".json", ".parquet"):
        return Path(source)
    return _load_from_hub(text, split, revision)


def _name_of(source: str | Path | Dataset) -> str:
    return str(source) if isinstance(source, str | Path) else "the data set"


def _rows(source: str | Path | Dataset, split: str, revision: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place, row) of a local file or folder, a hub data set, or an open one."""
    found = resolve(source, split, revision)
    if isinstance(found, Path):
        return read_rows(found, split=split)
    prefix = f"{source}, " if isinstance(source, str | Path) else ""
    return ((f"{prefix}row {number}", row) for number, row in enumerate(found, start=1))


def _load_from_hub(name: str, split: str, revision: str | None) -> Dataset:
    from datasets import load_dataset

    try:
        return load_dataset(name, split=split, revision=revision)
    except Exception as error:  # a hub that is out of reach has errors of several libraries
        raise DataError(
            f"{name!r} is no local file or folder, and as a hub data set (split {split!r}) it cannot be loaded: "
            f"{first_line(error)}; check the path, or give another (pairs.path)"
        ) from error
