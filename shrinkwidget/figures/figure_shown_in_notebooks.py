"""The figure that every function of `sw.figures` returns: matplotlib's, which a notebook shows without pyplot."""

from __future__ import annotations

import io
from typing import Any, Final

from matplotlib.figure import Figure

from .figure_base_and_registry import charts_of, our_settings

_CSS_PIXELS: Final = 96
_DENSITY: Final = 2


class DrawnFigure(Figure):
    """A `matplotlib.figure.Figure` that notebooks show as it will be printed, at double density, with its caption."""

    def _repr_mimebundle_(self, **_kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        stream = io.BytesIO()
        with our_settings():
            self.savefig(stream, format="png", dpi=_DENSITY * _CSS_PIXELS)
        wide, high = (round(float(inches) * _CSS_PIXELS) for inches in self.get_size_inches())
        words = "\n".join(chart.caption() for chart in charts_of(self)) or repr(self)
        data = {"image/png": stream.getvalue(), "text/plain": words}
        return data, {"image/png": {"width": wide, "height": high, "alt": words}}
