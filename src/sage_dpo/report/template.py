"""The package's page templates, filled in."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sage_dpo.report.figure import css_variables
from sage_dpo.report.summary import ABSENT


def render_template(name: str, **values: Any) -> str:
    """Return a page: escaping is on, names that were not given are errors, colours are those of the plots."""
    environment = Environment(
        loader=PackageLoader("sage_dpo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # only ever applied to SVG made by figure.to_panel, which escapes its text
    environment.globals |= {
        "light": css_variables(dark=False),
        "dark": css_variables(dark=True),
        "number": _number,
    }
    return environment.get_template(name).render(**values)


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g}".replace("-", "−")
