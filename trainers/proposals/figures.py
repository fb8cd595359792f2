"""The figure of a proposal: how well the law predicts runs that it was not fitted on, and the proposed mix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainers.figures import write_png
from trainers.proposals.records import Proposal

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_fit(proposal: Proposal, path: Path) -> None:
    """Write the figure as PNG."""

    def panels(figure: Figure) -> None:
        agreement, mix = figure.subplots(1, 2)
        measured = [proxy.measured for proxy in proposal.proxies]
        predicted = [proxy.predicted for proxy in proposal.proxies]
        ends = (min(measured + predicted), max(measured + predicted))
        agreement.plot(ends, ends, color="0.7", linewidth=0.8)
        agreement.plot(measured, predicted, "o", color="0.15", markersize=4)
        agreement.set_xlabel("measured held-out loss of a proxy")
        agreement.set_ylabel("predicted without it")
        agreement.set_title(f"{proposal.method}: {describe_fit(proposal)}", fontsize=9, loc="left", parse_math=False)
        names = list(proposal.weights)
        height = np.arange(len(names))[::-1]
        for proxy in proposal.proxies:
            mix.plot([proxy.weights[name] for name in names], height, "|", color="0.75", markersize=8)
        mix.plot([proposal.weights[name] for name in names], height, "o", color="0.1", label="proposed")
        mix.plot([proposal.prior[name] for name in names], height, "|", color="0.1", markersize=12, label="prior")
        mix.set_yticks(height, names, parse_math=False)
        mix.set_xlabel("weight (grey: proxies)")
        mix.legend(frameon=False, fontsize=8)

    write_png(path, (9, 3.4), panels, font_size=9, dpi=130)


def describe_fit(proposal: Proposal) -> str:
    """Return ``R² 0.91, rank correlation 0.88 on 16 left-out runs in 10 folds``."""
    fit = proposal.fit
    r2, rank = ("–" if value is None else f"{value:.2f}" for value in (fit.r2, fit.rank_correlation))
    return f"R² {r2}, rank correlation {rank} on {fit.runs} left-out runs in {fit.folds} folds"
