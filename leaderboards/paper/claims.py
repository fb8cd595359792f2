"""The claims of the paper, tested on our runs: the same direction or not, and whether that is significant.

A claim is that one line of a table is above another in a column; the published figures must say so too. Ours are the
differences of the table's own comparison, with its correction, so a claim has the verdict of its table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from scipy.stats import spearmanr

from harness.grid import Grid, Number
from harness.statistics.estimates import mean_over_seeds, p_value
from harness.statistics.families import adjust, verdict
from leaderboards.paper.figures import PAIR, R_HIGH, R_LOW, FigureData
from leaderboards.paper.measures import compare_lines, final_weights
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import MODEL, MODELS, STRATEGIES, Column, Line, published
from leaderboards.paper.tables import Difference, PaperTable, in_units

AGREES, SAME, OPPOSITE, DISAGREES, UNKNOWN = (
    "agrees", "same direction, not significant", "opposite direction, not significant", "disagrees", "not measured",
)  # fmt: skip


class Claim(NamedTuple):
    """``above`` is above ``below`` in ``column`` of ``table``, on ``model``."""

    table: str
    model: str
    above: str
    below: str
    column: str


@dataclass(frozen=True)
class Finding:
    """A claim with the paper's figure and our result.

    Attributes:
        published: the difference as the paper prints it, above 0.
        ours: None where it could not be measured.
        percent: whether the numbers are per cent.
    """

    table: str
    model: str
    text: str
    published: float
    ours: Difference | None
    percent: bool = True

    @property
    def place(self) -> str:
        """Return where the paper says it, such as ``Table 1, MoLM 700M-4E``."""
        return f"{heading(self.table)}, {MODELS[self.model]}"

    @property
    def verdict(self) -> str:
        """Return one of the five verdicts on a claim."""
        if self.ours is None:
            return UNKNOWN
        value = self.ours.estimate.value
        found = verdict(value, self.ours.p_holm)
        return {"better": AGREES, "worse": DISAGREES, "undecided": SAME if value > 0 else OPPOSITE}[found]


def _on(table: str, model: str, above: str, below: Iterable[str], *columns: str) -> list[Claim]:
    return [Claim(table, model, above, other, column) for other in below for column in columns]


CLAIMS: tuple[Claim, ...] = (
    *(
        claim
        for model in MODELS
        for claim in (
            *_on("table1", model, "dynamic", ("uniform",), "kr_average", "mt_bench"),
            *_on("table1", model, "dynamic", ("datasize", "random", "sequential", "ref_loss"), "kr_average"),
            *_on("table1", model, "uniform", ("datasize",), "kr_average", "mt_bench"),
        )
    ),
    *_on("table2", MODEL, "dynamic",
         ("final_static", "sentence_embedding", "gate_load_static", "dynamic_from_sentence_embedding"), "kr_average"),
    *_on("table3", MODEL, "dynamic", ("without_frozen_gate", "without_balance_loss", "without_gate_noise"),
         "kr_average", "mt_bench"),
    *_on("table4", MODEL, "dynamic", ("interval_200", "interval_50", "interval_20"), "bbh", "gsm8k"),
    *_on("table5", MODEL, "dynamic", ("inverse",), "gsm8k", "mt_bench"),
    *_on("table7", MODEL, "dynamic", ("public_sft",), "bbh", "gsm8k", "mbpp", "qa", "mt_bench"),
    *_on("table9", "molm", "dynamic", ("uniform",), "first", "second"),
    *_on("table9", MODEL, "dynamic", ("uniform",), "first", "second"),
)  # fmt: skip
WEIGHTS = (  # of table 8: model, and the source that Dynamic ends up drawing more of, and less
    ("molm", "sharegpt", "math_instruct"),
    (MODEL, "math_instruct", "sharegpt"),
    (MODEL, "code_instructions", "sharegpt"),
)


def findings(experiments: Experiments, tables: Mapping[str, PaperTable]) -> list[Finding]:
    """Return every claim with what our runs say, in the order of the tables."""
    found = [_of_table(claim, tables[claim.table]) for claim in CLAIMS]
    found += [*_of_weights(experiments, tables["table8"]), *_of_steps(experiments)]
    names = [*tables, "figure6"]
    return sorted(found, key=lambda finding: names.index(finding.table))


def heading(name: str) -> str:
    """Return ``Table 1`` for ``table1``."""
    return name.replace("table", "Table ").replace("figure", "Figure ")


def _of_table(claim: Claim, table: PaperTable) -> Finding:
    lines = {line.key: line for line in table.spec.lines}
    above, below = f"{claim.model}/{claim.above}", f"{claim.model}/{claim.below}"
    column = next(column for column in table.spec.columns if column.key == claim.column)
    text = f"{column.title}: {lines[above].title} above {lines[below].title}"
    gap = _gap(table, (above, column.key), (below, column.key))
    return Finding(claim.table, claim.model, text, gap, table.difference(column, above, below), column.percent)


def _gap(table: PaperTable, above: tuple[str, str], below: tuple[str, str]) -> float:
    """Return the difference of two published figures; the cells of claims all have one."""
    higher, lower = table.spec.figures[above], table.spec.figures[below]
    assert higher is not None
    assert lower is not None
    return higher - lower


def _of_weights(experiments: Experiments, table: PaperTable) -> list[Finding]:
    """Test the claims on final weights, over seeds; they are a family of their own."""
    titles = {column.key: column.title for column in table.spec.columns}
    found, estimates = [], []
    for model, more, less in WEIGHTS:
        line = Line(model, "dynamic", STRATEGIES["dynamic"])
        pairs = zip(*(final_weights(experiments, line, name)[0] for name in (more, less)), strict=True)
        gaps = [100 * (high - low) for high, low in pairs]
        estimates.append(mean_over_seeds(gaps) if gaps else None)
        gap = _gap(table, (line.key, more), (line.key, less))
        found.append(Finding("table8", model, f"final weight: {titles[more]} above {titles[less]}", gap, None))
    corrected = adjust([p_value(estimate) if estimate else float("nan") for estimate in estimates])
    return [
        replace(finding, ours=Difference(estimate, p) if estimate else None)
        for finding, estimate, p in zip(found, estimates, corrected, strict=True)
    ]


def _of_steps(experiments: Experiments) -> list[Finding]:
    """Test figure 6: after a quarter of the steps the paper has Uniform in front."""
    figures = published()["other"]["steps_500_kr_average"]
    column = Column("kr_average", "K&R Avg", "score:kr_average")
    lines = [Line(MODEL, f"steps_500_{name}", STRATEGIES[name]) for name in PAIR]
    tested = compare_lines(experiments, lines, [column.quantity])
    pair = tested.difference(lines[0].key, lines[1].key, column.quantity)
    ours = Difference(in_units(pair.difference, column), pair.p_holm) if pair else None
    text = f"K&R Avg after 500 of 2,000 steps: {lines[0].title} above {lines[1].title}"
    return [Finding("figure6", MODEL, text, figures["uniform"] - figures["dynamic"], ours)]


def in_words(found: Sequence[Finding], tables: Mapping[str, PaperTable], balance: FigureData) -> list[str]:
    """Sum up the claims: counts, those that hold and those that do not, the order of the rows, and figure 2."""
    by_verdict: dict[str, list[Finding]] = {}
    for finding in found:
        by_verdict.setdefault(finding.verdict, []).append(finding)
    counts = {key: len(by_verdict.get(key, [])) for key in (AGREES, SAME, OPPOSITE, DISAGREES, UNKNOWN)}
    texts = [
        f"Of {len(found)} claims of the paper, {len(found) - counts[UNKNOWN]} could be tested: {counts[AGREES]} hold"
        f" significantly, {counts[SAME]} show the paper's direction without significance, {counts[OPPOSITE]} the"
        f" opposite direction without significance, and {counts[DISAGREES]} are contradicted significantly."
    ]
    for key, words in ((AGREES, "Agrees"), (DISAGREES, "Disagrees")):
        if some := by_verdict.get(key):
            texts.append(f"{words}: {'; '.join(f'{f.text} ({f.place})' for f in some)}.")
    texts += [order for model in MODELS if (order := _order(tables["table1"], model))]
    facts = {what: (ours, paper) for what, ours, paper in balance.facts}
    if "Pearson's r" in facts:
        (r, paper), (low, _), (high, _) = facts["Pearson's r"], facts[R_LOW], facts[R_HIGH]
        sign = "has the paper's sign" if r * (paper or 0.0) > 0 else "has the opposite sign"
        zero = "excludes 0" if low * high > 0 else "includes 0, so either sign is possible"
        texts.append(
            f"Load imbalance and K&R average (figure 2): Pearson's r is {_signed(r)} ({_signed(low)} to"
            f" {_signed(high)}); the paper has {_signed(paper or 0.0)}. It {sign}, and its interval {zero}."
        )
    texts.append("p: of the difference, after Holm's correction over all pairs of lines in all columns of its table.")
    return texts


def _order(table: PaperTable, model: str) -> str | None:
    """Say how alike the rows of table 1 are ordered by K&R average here and in the paper."""
    ours, theirs = {}, {}
    for line in table.spec.lines:
        cell = table.cells[line.key, "kr_average"]
        if line.model == model and cell.ours is not None and cell.published is not None:
            ours[line.title], theirs[line.title] = cell.ours.value, cell.published
    if len(ours) < 4:
        return None
    rank = float(spearmanr(list(ours.values()), list(theirs.values())).statistic)
    here, there = (" > ".join(sorted(values, key=values.__getitem__, reverse=True)) for values in (ours, theirs))
    return f"Order by K&R average, {MODELS[model]} (Spearman's ρ {_signed(rank)}): here {here}; in the paper {there}."


def _signed(value: float) -> str:
    return str(Number(value, signed=True))


def claims_grid(found: Sequence[Finding]) -> Grid:
    """Lay the claims out for reading."""
    rows = []
    for finding in found:
        ours, p = "—", ""
        if finding.ours is not None:
            estimate, p_holm = finding.ours.estimate, finding.ours.p_holm
            ours = str(Number(estimate.value, estimate.se, 1 if finding.percent else 2, signed=True))
            p = "< 0.001" if p_holm < 0.001 else f"{p_holm:.3f}".replace("nan", "?")
        rows.append([finding.text, finding.place, _signed(finding.published), ours, p, finding.verdict])
    header = ["claim", "place", "paper", "ours ± standard error", "p", "verdict"]
    return Grid(header, rows, align="llrrrl")
