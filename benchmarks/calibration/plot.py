"""The reliability diagram of `drafthouse bench calibration`, as a PNG file.

Promises: drawn without a display; a file that cannot be written is a ConfigError that names --plot.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drafthouse.errors import ConfigError

DPI = 120
STYLES = {"prior": {"color": "#d1751f", "marker": "s"}, "calibrated": {"color": "#0b62a4", "marker": "o"}}


def check_plot(path: pathlib.Path | None) -> None:
    """Before a run of minutes, not after it. Raises ConfigError naming --plot."""
    if path is not None and not (path.parent.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)):
        raise ConfigError(f"--plot {path}: cannot be written")


def plot_reliability(path: pathlib.Path, report: Mapping[str, Any], samplings: list[str]) -> None:
    """Acceptance measured against the edge predicted, a column for each sampling, with the number of children at each point below."""
    figure = Figure(figsize=(5.0 * len(samplings), 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(samplings), squeeze=False, sharex=True, height_ratios=(4, 1))
    for column, sampling in enumerate(samplings):
        curve, counts = axes[0][column], axes[1][column]
        curve.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        for name, style in STYLES.items():
            bins = report[sampling][name]["bins"]
            predicted = [b["predicted"] for b in bins]
            label = f"{name}, error {report[sampling][name]['ece']:.3f}"
            curve.plot(predicted, [b["measured"] for b in bins], markersize=4, linewidth=1.2, label=label, **style)
            counts.plot(predicted, [b["count"] for b in bins], linestyle="none", markersize=4, **style)
        curve.set_title(f"{sampling}, {report[sampling]['judged']} positions")
        curve.set_aspect("equal")
        curve.legend(fontsize=8)
        counts.set_yscale("log")
        counts.set_xlabel("predicted edge")
        for axis in (curve, counts):
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("share accepted")
    axes[1][0].set_ylabel("children")
    try:
        figure.savefig(path, dpi=DPI, format="png")
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror or error}") from error
