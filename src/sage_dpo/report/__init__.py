"""Reports: read a run folder, write tables and a self-contained page. Reads files only; trains and samples nothing."""

from __future__ import annotations

from sage_dpo.report.page import write_report
from sage_dpo.report.tables import format_table, markdown_tables

__all__ = ["format_table", "markdown_tables", "write_report"]
