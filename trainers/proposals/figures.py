"""The picture of a proposal: what the law predicts of runs it did not see, and the mix it proposes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from harness.files import write_bytes
from trainers.proposals.records import Proposal


def draw_fit(proposal: Proposal, path: Path) -> None:
    """A PNG, the same bytes for the same record."""
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {key: value for key, value in rcParamsDefault.items() if not key.startswith(("backend", "interactive"))}
    with rc_context(settings | {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        agreement, mix = figure.subplots(1, 2)
        measured = [proxy.measured for proxy in proposal.proxies]
        predicted = [proxy.predicted for proxy in proposal.proxies]
        ends = (min(measured + predicted), max(measured + predicted))
        agreement.plot(ends, ends, color="0.7", linewidth=0.8)
        agreement.plot(measured, predicted, "o", color="0.15", markersize=4)
        agreement.set_xlabel("measured held-out loss of a proxy")
        agreement.set_ylabel("predicted without it")
        agreement.set_title(f"{proposal.method}: {fit_in_words(proposal)}", fontsize=9, loc="left", parse_math=False)
        names = list(proposal.weights)
        height = np.arange(len(names))[::-1]
        for proxy in proposal.proxies:
            mix.plot([proxy.weights[name] for name in names], height, "|", color="0.75", markersize=8)
        mix.plot([proposal.weights[name] for name in names], height, "o", color="0.1", label="proposed")
        mix.plot([proposal.prior[name] for name in names], height, "|", color="0.1", markersize=12, label="prior")
        mix.set_yticks(height, names, parse_math=False)
        mix.set_xlabel("weight (grey: proxies)")
        mix.legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def fit_in_words(proposal: Proposal) -> str:
    """``R² 0.91, rank correlation 0.88 on 16 runs left out in 10 folds``."""
    fit = proposal.fit
    r2, rank = ("–" if value is None else f"{value:.2f}" for value in (fit.r2, fit.rank_correlation))
    return f"R² {r2}, rank correlation {rank} on {fit.runs} runs left out in {fit.folds} folds"
