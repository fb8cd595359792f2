"""The claims of the paper, tested on our runs.

A claim is that one line of a table is above another in a column; the published figures must say so too. All of them
together are one family of planned comparisons over training seeds. The comparisons of a table that are not claims do
not count in it, so the p-value of a claim may differ from that of the same difference in its table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats import spearmanr

from harness.grid import Grid, Number, csv_text
from harness.statistics.estimates import Estimate, mean_over_seeds, p_value
from harness.statistics.joint import FEWEST_SEEDS, numbers_over_seeds
from leaderboards.differences import Pair, correct_family, difference, family_of
from leaderboards.paper.figures import PAIR, R_HIGH, R_LOW, FigureData
from leaderboards.paper.measures import Compared, compare_lines, final_weights
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import MODEL, MODELS, STRATEGIES, Column, Line, TableSpec, published
from leaderboards.paper.tables import PaperTable, tested_in_units
from leaderboards.table import Tested

AGREES, DISAGREES, EQUAL, UNDECIDED, UNKNOWN = "agrees", "disagrees", "equal", "undecided", "not measured"
FIELDS = ("claim", "where", "published", "ours", "standard error", "p", "margin", "verdict")


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
    ours: Tested | None
    percent: bool = True

    @property
    def place(self) -> str:
        """Return where the paper says it, such as ``Table 1, MoLM 700M-4E``."""
        return f"{heading(self.table)}, {MODELS[self.model]}"

    @property
    def verdict(self) -> str:
        """Return one of the five verdicts on a claim."""
        words = {"better": AGREES, "worse": DISAGREES, "equal": EQUAL, "undecided": UNDECIDED}
        return UNKNOWN if self.ours is None else words[self.ours.verdict]


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
    """Return every claim with what our runs say, in the order of the tables; all are one family."""
    specs = {name: table.spec for name, table in tables.items()}
    columns = {(name, column.key): column for name, spec in specs.items() for column in spec.columns}
    lines = {line.key: line for spec in specs.values() for line in spec.lines if line.model}
    early = [Line(MODEL, f"steps_500_{name}", STRATEGIES[name]) for name in PAIR]  # figure 6
    lines |= {line.key: line for line in early}
    planned = [_Planned(claim, specs[claim.table], columns[claim.table, claim.column]) for claim in CLAIMS]
    average = columns["table1", "kr_average"]
    used = {line for one in planned for line in (one.above, one.below)} | {line.key for line in early}
    quantities = list(dict.fromkeys(one.column.quantity for one in planned))
    compared = compare_lines(experiments, [lines[key] for key in lines if key in used], quantities, test=False)
    pairs = [(one.column.quantity, one.above, one.below) for one in planned]
    pairs.append((average.quantity, early[0].key, early[1].key))
    gaps = [_weight_gaps(experiments, model, more, less) for model, more, less in WEIGHTS]
    tested, numbers = _test(compared, pairs, gaps, experiments.comparisons.margin)

    ours = [tested_in_units(one, column) if one else None for one, column in zip(
        tested, [*(one.column for one in planned), average], strict=True)]  # fmt: skip
    found = [Finding(one.claim.table, one.claim.model, one.text, one.gap, result, one.column.percent)
             for one, result in zip(planned, ours[:-1], strict=True)]  # fmt: skip
    titles, figures = {c.key: c.title for c in specs["table8"].columns}, specs["table8"].figures
    for (model, more, less), result in zip(WEIGHTS, numbers, strict=True):
        gap = _gap(figures, (f"{model}/dynamic", more), (f"{model}/dynamic", less))
        found.append(Finding("table8", model, f"final weight: {titles[more]} above {titles[less]}", gap, result))
    steps = published()["other"]["steps_500_kr_average"]  # after a quarter of the steps the paper has Uniform in front
    text = f"K&R Avg after 500 of 2,000 steps: {early[0].title} above {early[1].title}"
    found.append(Finding("figure6", MODEL, text, steps["uniform"] - steps["dynamic"], ours[-1]))
    names = [*tables, "figure6"]
    return sorted(found, key=lambda finding: names.index(finding.table))


def heading(name: str) -> str:
    """Return ``Table 1`` for ``table1``."""
    return name.replace("table", "Table ").replace("figure", "Figure ")


@dataclass(frozen=True)
class _Planned:
    """A claim with its table."""

    claim: Claim
    spec: TableSpec
    column: Column

    @property
    def above(self) -> str:
        return f"{self.claim.model}/{self.claim.above}"

    @property
    def below(self) -> str:
        return f"{self.claim.model}/{self.claim.below}"

    @property
    def text(self) -> str:
        titles = {line.key: line.title for line in self.spec.lines}
        return f"{self.column.title}: {titles[self.above]} above {titles[self.below]}"

    @property
    def gap(self) -> float:
        return _gap(self.spec.figures, (self.above, self.column.key), (self.below, self.column.key))


def _gap(figures: Mapping[tuple[str, str], float | None], above: tuple[str, str], below: tuple[str, str]) -> float:
    """Return the difference of two published figures; the cells of claims all have one."""
    higher, lower = figures[above], figures[below]
    assert higher is not None
    assert lower is not None
    return higher - lower


def _weight_gaps(experiments: Experiments, model: str, more: str, less: str) -> list[float]:
    """Return by how much the final weight of a source is above that of another, in points, for each seed."""
    line = Line(model, "dynamic", STRATEGIES["dynamic"])
    weights = [final_weights(experiments, line, name)[0] for name in (more, less)]
    return [100 * (high - low) for high, low in zip(*weights, strict=True)]


def _test(
    compared: Compared, pairs: Sequence[tuple[str, str, str]], gaps: Sequence[list[float]], margin: float
) -> tuple[list[Tested | None], list[Tested | None]]:
    """Test pairs of lines (quantity, above, below) and gaps over seeds as one family; None where nothing pairs."""
    tables = {row: table for table in compared.tables for row in table.rows}
    tests: list[Tested | None] = []
    keys: list[Pair | None] = []
    found: dict[Pair, Estimate] = {}
    for quantity, *two in pairs:
        rows = [compared.rows.get(key) for key in two]
        tests.append(None)
        keys.append(None)
        if rows[0] is None or rows[1] is None:
            continue
        heading = next((h for h in tables[rows[0]].columns if h.name == quantity), None)
        estimate = difference(rows[0], rows[1], heading) if heading else None
        if heading is not None and estimate is not None:
            tests[-1] = Tested(estimate, p_value(estimate), margin=heading.margin)
            if family_of(tables[rows[0]], heading, (rows[0], rows[1]), estimate, compared.experiments.comparisons):
                keys[-1] = (quantity, rows[0], rows[1])
                found[quantity, rows[0], rows[1]] = estimate
    enough = [len(gap) >= FEWEST_SEEDS for gap in gaps]
    extra = [(*numbers_over_seeds(gap), margin) for gap, many in zip(gaps, enough, strict=True) if many]
    corrected, numbers = correct_family(compared.tables, found, "primary", extra)
    rest = iter(numbers)
    by_gap = [
        next(rest) if many else Tested(mean_over_seeds(gap), margin=margin) if gap else None
        for gap, many in zip(gaps, enough, strict=True)
    ]
    return [corrected[key] if key else test for key, test in zip(keys, tests, strict=True)], by_gap


def in_words(found: Sequence[Finding], tables: Mapping[str, PaperTable], balance: FigureData) -> list[str]:
    """Sum up the claims: counts, those that hold and those that do not, the order of the rows, and figure 2."""
    by_verdict: dict[str, list[Finding]] = {}
    for finding in found:
        by_verdict.setdefault(finding.verdict, []).append(finding)
    counts = {key: len(by_verdict.get(key, [])) for key in (AGREES, DISAGREES, EQUAL, UNDECIDED, UNKNOWN)}
    measured = len(found) - counts[UNKNOWN]
    texts = [
        f"Of {len(found)} claims of the paper, {measured} could be tested, and {measured - counts[UNDECIDED]} are"
        f" decided: {counts[AGREES]} as in the paper, {counts[DISAGREES]} the other way round, and {counts[EQUAL]} as"
        " equal within the margin."
    ]
    for key, words in ((AGREES, "Agrees"), (DISAGREES, "Disagrees"), (EQUAL, "Equal"), (UNDECIDED, "Undecided")):
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
    texts.append(
        "p: of the difference, corrected over all claims by their joint distribution over seeds and questions. Equal:"
        " the difference is surely smaller than the margin."
    )
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
        ours, p, margin = "—", "", ""
        if finding.ours is not None:
            estimate, corrected, decimals = (
                finding.ours.difference,
                finding.ours.p_adjusted,
                1 if finding.percent else 2,
            )
            ours = str(Number(estimate.value, estimate.se, decimals, signed=True))
            margin = str(Number(finding.ours.margin, decimals=decimals))
            p = "< 0.001" if corrected < 0.001 else f"{corrected:.3f}".replace("nan", "?")
        rows.append([finding.text, finding.place, _signed(finding.published), ours, p, margin, finding.verdict])
    header = ["claim", "place", "paper", "ours ± standard error", "p", "margin", "verdict"]
    return Grid(header, rows, align="llrrrrl")


def claims_csv(found: Sequence[Finding]) -> str:
    """Write one line for each claim, with every number in full."""
    lines = []
    for finding in found:
        numbers: tuple[float | None, ...] = (None,) * 4
        if (ours := finding.ours) is not None:
            numbers = (ours.difference.value, ours.difference.se, ours.p_adjusted, ours.margin)
        value, error, p, margin = numbers
        cells = (finding.text, finding.place, round(finding.published, 6), value, error, p, margin, finding.verdict)
        lines.append(dict(zip(FIELDS, cells, strict=True)))
    return csv_text(FIELDS, lines)
