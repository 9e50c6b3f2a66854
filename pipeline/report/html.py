"""The report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UnavailableError
from pipeline.report import vega
from pipeline.report.charts import charts
from pipeline.report.content import content

if TYPE_CHECKING:
    from pipeline.report.document import Documents

PACKAGES = ("altair", "jinja2", "vl_convert")
_TEMPLATE = Path(__file__).with_name("page.html.template")


def unavailable() -> str | None:
    """Return why no HTML can be written here, or None if it can."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def render(name: str, documents: Documents) -> str:
    """Return the report of a run from its two documents, the plots' library (Vega) included: about 1 MB.

    Raises:
        UnavailableError: the packages that draw are not installed.
    """
    if reason := unavailable():
        raise UnavailableError(f"the HTML report cannot be written: {reason}", hint="install weighbridge[report]")
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    plots = charts(documents)
    found = content(name, documents)
    shown = {chart for section in found.sections for chart in section.charts}
    specifications = {key: spec for key, (_, spec) in plots.items() if key in shown}
    schema = next((each["$schema"] for each in specifications.values()), None)
    library = vega.library(_version(schema) if schema else None)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        found=found,
        plots=plots,
        library=Markup(library),  # noqa: S704 - a library
        specifications=Markup(json.dumps(specifications, ensure_ascii=False).replace("<", "\\u003c")),  # noqa: S704 - escaped
    )


def _version(schema: str) -> str:
    """Return the version of Vega-Lite that a schema's address names, as vl-convert does."""
    return ".".join(schema.rsplit("/v", 1)[1].removesuffix(".json").split(".")[:2])
