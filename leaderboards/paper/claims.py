"""What the paper says, claim by claim, held against our runs: same direction or not, and whether that is significant.

A claim is that one line of a table stands above another in a column; the published figures must say so too. Ours are
differences paired by question and seed with the p-values of their table, so a claim is judged as its table is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.stats import spearmanr

from harness.statistics.estimates import ALPHA, p_value
from harness.statistics.families import adjust
from leaderboards.paper.figures import MODEL, PAIR, R_HIGH, R_LOW, FigureData
from leaderboards.paper.measures import measure, over_seeds
from leaderboards.paper.published import published
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import MODELS, STRATEGIES
from leaderboards.paper.tables import Difference, PaperTable, scaled

AGREES, SAME, OPPOSITE, DISAGREES, UNKNOWN = (
    "agrees", "same direction, not significant", "opposite direction, not significant", "disagrees", "not measured",
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """``above`` stands above ``below`` in ``column`` of ``table``, on ``model``."""

    table: str
    model: str
    above: str
    below: str
    column: str


@dataclass(frozen=True)
class Finding:
    """A claim with what the paper prints for it and what came of it here.

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
        return f"{heading(self.table)}, {MODELS[self.model]}"

    @property
    def verdict(self) -> str:
        if self.ours is None:
            return UNKNOWN
        value = self.ours.estimate.value
        if self.ours.p_holm < ALPHA:
            return AGREES if value > 0 else DISAGREES
        return SAME if value > 0 else OPPOSITE


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
    """Every claim beside what our runs say."""
    found = [_of_table(claim, tables[claim.table]) for claim in CLAIMS]
    found += [*_of_weights(experiments, tables["table8"]), *_of_steps(experiments)]
    names = [*tables, "figure6"]
    return sorted(found, key=lambda finding: names.index(finding.table))


def heading(name: str) -> str:
    """``Table 1`` for ``table1``."""
    return name.replace("table", "Table ").replace("figure", "Figure ")


def _of_table(claim: Claim, table: PaperTable) -> Finding:
    lines = {line.key: line for line in table.spec.lines}
    above, below = f"{claim.model}/{claim.above}", f"{claim.model}/{claim.below}"
    column = next(column for column in table.spec.columns if column.key == claim.column)
    higher, lower = table.spec.figures[above, column.key], table.spec.figures[below, column.key]
    assert higher is not None
    assert lower is not None
    text = f"{column.title}: {lines[above].title} above {lines[below].title}"
    ours = table.difference(column.key, above, below)
    return Finding(claim.table, claim.model, text, higher - lower, ours, column.percent)


def _of_weights(experiments: Experiments, table: PaperTable) -> list[Finding]:
    found, estimates = [], []
    for model, more, less in WEIGHTS:
        key = f"{model}/dynamic"
        titles = {column.key: column.title for column in table.spec.columns}
        here, there = (measure(experiments, model, "dynamic", f"weight:{name}").numbers for name in (more, less))
        seeds = sorted(here.keys() & there.keys())
        estimates.append(over_seeds([100 * (here[seed] - there[seed]) for seed in seeds]) if seeds else None)
        told = (table.spec.figures[key, more] or 0.0) - (table.spec.figures[key, less] or 0.0)
        text = f"final weight: {titles[more]} above {titles[less]}"
        found.append(Finding("table8", model, text, told, None))
    corrected = adjust([p_value(estimate) if estimate else math.nan for estimate in estimates])
    return [
        replace(f, ours=Difference(estimate, p) if estimate else None)
        for f, estimate, p in zip(found, estimates, corrected, strict=True)
    ]


def _of_steps(experiments: Experiments) -> list[Finding]:
    """Figure 6: at a quarter of the steps the paper has Uniform in front."""
    told = published()["other"]["steps_500_kr_average"]
    uniform, dynamic = (measure(experiments, MODEL, f"steps_500_{name}", "score:kr_average") for name in PAIR)
    pair = uniform.minus(dynamic)
    ours = Difference(scaled(pair, 100.0), p_value(pair)) if pair else None
    text = f"K&R Avg after 500 of 2,000 steps: {STRATEGIES['uniform']} above {STRATEGIES['dynamic']}"
    return [Finding("figure6", MODEL, text, told["uniform"] - told["dynamic"], ours)]


def in_words(found: Sequence[Finding], tables: Mapping[str, PaperTable], balance: FigureData) -> list[str]:
    """The counts, the claims that hold and those that do not, the order of the rows, and figure 2."""
    by_verdict: dict[str, list[Finding]] = {}
    for finding in found:
        by_verdict.setdefault(finding.verdict, []).append(finding)
    counts = {verdict: len(by_verdict.get(verdict, [])) for verdict in (AGREES, SAME, OPPOSITE, DISAGREES, UNKNOWN)}
    measured = len(found) - counts[UNKNOWN]
    texts = [
        f"Of {len(found)} claims of the paper, {measured} could be looked at here: {counts[AGREES]} hold significantly,"
        f" {counts[SAME]} show the paper's direction without significance, {counts[OPPOSITE]} the opposite direction"
        f" without significance, and {counts[DISAGREES]} are contradicted significantly."
    ]
    for verdict, words in ((AGREES, "Agrees"), (DISAGREES, "Disagrees")):
        if held := by_verdict.get(verdict):
            texts.append(f"{words}: {'; '.join(f'{f.text} ({f.place})' for f in held)}.")
    for model in MODELS:
        if order := _order(tables["table1"], model):
            texts.append(order)
    told = {what: (ours, theirs) for what, ours, theirs in balance.facts}
    if "Pearson's r" in told:
        (r, paper), (low, _), (high, _) = told["Pearson's r"], told[R_LOW], told[R_HIGH]
        holds = "has the paper's sign" if r * (paper or 0.0) > 0 else "has the opposite sign"
        sure = (
            "and its interval leaves out 0"
            if low * high > 0
            else "and its interval holds 0, so either sign is possible"
        )
        texts.append(
            f"Load imbalance and K&R average (figure 2): Pearson's r {signed(r, 2)} ({signed(low, 2)} to"
            f" {signed(high, 2)}), in the paper {signed(paper or 0.0, 2)}: it {holds}, {sure}."
        )
    texts.append("p: of the difference, after Holm's correction over all pairs of lines and all columns of its table.")
    return texts


def _order(table: PaperTable, model: str) -> str | None:
    """How alike the rows of table 1 are ordered by K&R average here and in the paper."""
    ours, theirs = {}, {}
    for line in table.spec.lines:
        cell = table.cells[line.key, "kr_average"]
        if line.model == model and cell.ours is not None and cell.published is not None:
            ours[line.title], theirs[line.title] = cell.ours.value, cell.published
    if len(ours) < 4:
        return None
    rank = float(spearmanr(list(ours.values()), list(theirs.values())).statistic)
    here, there = (" > ".join(sorted(values, key=values.__getitem__, reverse=True)) for values in (ours, theirs))
    return f"Order by K&R average, {MODELS[model]} (Spearman's ρ {signed(rank, 2)}): here {here}; in the paper {there}."


def signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")


def rows(found: Sequence[Finding]) -> list[list[str]]:
    """Header and lines of the table of claims."""
    lines = [["claim", "where", "paper", "ours ± standard error", "p", "verdict"]]
    for finding in found:
        decimals = 1 if finding.percent else 2
        ours, p = "—", ""
        if finding.ours is not None:
            held, error = finding.ours, finding.ours.estimate.se
            told = "?" if math.isnan(error) else f"{error:.{decimals}f}"
            ours = f"{signed(held.estimate.value, decimals)} ± {told}"
            p = "?" if math.isnan(held.p_holm) else f"{held.p_holm:.3f}" if held.p_holm >= 0.001 else "< 0.001"
        lines.append([finding.text, finding.place, signed(finding.published, 2), ours, p, finding.verdict])
    return lines
