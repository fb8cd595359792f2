"""The site in a real browser: sorted, filtered, compared, opened, by mouse and keyboard; hostile text is text."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_records import (  # type: ignore[import-not-found]
    edit_json,
    make_board,
    reseal,
    write_evaluation,
    write_judging,
    write_submission,
)
from browser import axe_violations, chromium, open_page, texts, until, why_not  # type: ignore[import-not-found]

import leaderboards
from harness.statistics import estimates
from leaderboards.board.build import build_site
from leaderboards.board.folder import BoardFolder
from leaderboards.board.judgings import pin_judging
from leaderboards.board.pins import pin
from leaderboards.board.standings import rank_submissions
from leaderboards.board.submissions import Rules
from leaderboards.board.verify import verify
from leaderboards.serving import server

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no browser: {why_not()}")

SIZES = {"pick": 30, "count": 24, "run": 16}
MARKUP = (
    "<script>owned=1</script><img src=x onerror='owned=1'><svg onload='owned=1'>"
    "{{constructor.constructor('owned=1')()}} \"'></textarea><a href='javascript:owned=1'>x</a>"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[BoardFolder, Path]:
    """A board of 64 submissions in two suite versions, one of them hostile, with a history."""
    folder = tmp_path_factory.mktemp("site")
    board, asked = make_board(folder / "board", SIZES)
    made = [
        write_submission(
            board, asked, f"model-{i:02d}", seed=i, ability=0.2 + 0.01 * i if i != 5 else -1.0,
            strategy=("uniform", "dynamic", "datasize")[i % 3], parameters=10 ** (6 + i % 5),
        )
        for i in range(62)
    ]  # fmt: skip
    write_submission(board, asked, "model-00", seed=100, ability=0.9, supersedes=made[0].name)
    text = {"schema_version": 1, "submission_id": made[1].name, "reason": f"wrong {MARKUP}", "date": "2026-03-01"}
    (made[1].path / "withdrawn.json").write_text(json.dumps(text))
    hostile = write_submission(board, asked, "hostile", seed=200, ability=0.95)
    judged = [(q, turn, (q + turn) % 10 + 1) for q in range(81, 93) for turn in (1, 2)]
    write_judging(hostile, judged, MARKUP)
    write_judging(made[40], judged, "x" * 3000)
    board.update(licence="CC-BY-4.0", rules=Rules(judgings={"mt_bench": pin_judging(hostile.path / "judge/mt_bench")}))
    reseal(board, made[40])
    reseal(board, hostile, strategy=MARKUP[:190], contact=MARKUP[:190], licence="<b>bold</b>", base_model=MARKUP[:190],
           description=MARKUP, links={"weights": "https://example.org/?q=<script>owned=1</script>"})  # fmt: skip
    board.add_suite(pin(write_evaluation(folder / "second", asked, seed=7), version="2"))
    standings = rank_submissions(board, verify(board))
    assert not standings.refused
    build_site({"board": standings}, folder / "site")
    return board, folder / "site"


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(built, driver) -> Iterator[Any]:
    """The table, opened from the disk; afterwards nothing may be on the console and no hostile script have run."""
    driver.get_log("browser")
    open_page(driver, f"{(built[1] / 'index.html').as_uri()}#b/made@1")
    yield driver
    assert driver.get_log("browser") == []
    assert driver.execute_script("return typeof owned") == "undefined"


def models(driver: Any) -> list[str]:
    return texts(driver, "#table td.name a")


def click(driver: Any, selector: str) -> None:
    driver.find_element("css selector", selector).click()


def go(driver: Any, fragment: str, selector: str) -> None:
    driver.execute_script(f"location.hash = {fragment!r}")
    until(lambda: driver.find_elements("css selector", selector), f"{selector} at {fragment}")


def test_the_best_come_first_with_score_interval_and_rank(page, built):
    standings = rank_submissions(built[0], verify(built[0]))
    standing = standings.suites[0]
    column = standing.columns["average"]
    order = np.argsort(-column.values, kind="stable")
    assert models(page) == [standings.submission(standing.rows[i]).model for i in order[:50]]
    at = int(order[0])
    first = texts(page, "#table tbody tr:first-child td")
    assert first[1] == f"{column.best[at]}–{column.worst[at]}"
    assert first[8] == f"{100 * column.values[at]:.1f} ± {100 * column.half[at]:.1f}†"  # its programs were not run
    assert texts(page, "#count") == ["63 of 63 submissions, page 1 of 2".replace("63", str(len(standing.rows)))]


def test_without_scripts_the_first_rows_are_there_to_read(built):
    text = (built[1] / "index.html").read_text()
    assert text.count("<tr>") == 1 + 50
    shown = re.findall(r'<a href="#s/\w+">([^<]+)</a>', text)
    standings = rank_submissions(built[0], verify(built[0]))
    assert shown == [standings.submission(standings.suites[0].rows[i]).model for i in standings.suites[0].order()[:50]]
    assert "hostile" in shown
    assert "&lt;script&gt;owned=1" in text


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(page):
    click(page, "button[data-sort='pick']")
    values = [float(text.split()[0]) for text in texts(page, "#table tbody td:nth-child(6)")]
    assert values == sorted(values, reverse=True)
    assert (
        page.execute_script("return document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"
    )
    click(page, "button[data-sort='pick']")
    values = [float(text.split()[0]) for text in texts(page, "#table tbody td:nth-child(6)")]
    assert values == sorted(values)
    click(page, "button[data-sort='model']")
    assert models(page) == sorted(models(page))


def test_filters_by_model_strategy_and_size_and_pages(page):
    from selenium.webdriver.support.select import Select

    click(page, ".pager button:nth-of-type(2)")
    assert len(models(page)) == 13 - 1
    page.find_element("id", "query").send_keys("model-1")
    assert set(models(page)) == {f"model-1{i}" for i in range(10)}
    Select(page.find_element("id", "strategy")).select_by_visible_text("dynamic")
    assert set(models(page)) == {"model-10", "model-13", "model-16", "model-19"}
    Select(page.find_element("id", "size")).select_by_visible_text("1B to 10B")
    assert models(page) == ["model-13"]
    page.find_element("id", "query").send_keys("zzz")
    assert texts(page, "#table tbody td") == ["No submission matches these filters. Show all"]
    Select(page.find_element("id", "size")).select_by_index(0)
    Select(page.find_element("id", "strategy")).select_by_index(0)
    page.execute_script("const q = document.getElementById('query'); q.value = ''; q.dispatchEvent(new Event('input'))")


def test_the_address_holds_what_was_chosen(page):
    """A link that is shared or reloaded shows the same rows, order, filters and ticks."""
    from selenium.webdriver.support.select import Select

    page.find_element("id", "query").send_keys("model-")
    Select(page.find_element("id", "strategy")).select_by_visible_text("dynamic")
    click(page, "button[data-sort='count']")
    click(page, "button[data-sort='count']")
    for box in page.find_elements("css selector", "#table input[type=checkbox]")[:3]:
        box.click()
    seen = texts(page, "#table tbody tr"), texts(page, "#compare")
    assert seen[1] == ["Compare these 3"]
    open_page(page, page.current_url)
    assert (texts(page, "#table tbody tr"), texts(page, "#compare")) == seen
    assert page.find_element("id", "query").get_attribute("value") == "model-"
    click(page, "#compare")
    until(lambda: page.find_elements("css selector", "table.comparison"), "the comparison of three")
    assert len(texts(page, "table.comparison thead th")) == 1 + 3
    assert page.title == "3 submissions · A board"
    assert texts(page, "#mixtures h3") == ["chat", "code", "math"]
    assert len(page.find_elements("css selector", "#mixtures > svg path.line")) == 3 * 3
    open_page(page, page.current_url)
    assert len(texts(page, "table.comparison tbody tr:first-child [data-verdict]")) == 2
    open_page(page, page.current_url.split("#")[0] + "#b/made@1?page=7&size=99&compare=nobody&sort=nothing&order=x")
    assert models(page)


def test_strategies_come_first_with_their_differences_over_seeds(driver, tmp_path):
    """Strategies of one model: the score over all seeds, and the difference to uniform paired by question and seed."""
    board, asked = make_board(tmp_path / "board", SIZES)
    for k, (strategy, ability) in enumerate((("uniform", 0.3), ("dynamic", 0.9), ("datasize", 0.2))):
        for seed in range(3):
            where = write_submission(board, asked, f"{strategy}-{seed}", seed=10 * k + seed, ability=ability,
                                     strategy=strategy, base_model="tiny")  # fmt: skip
            reseal(board, where, seed=seed)
    where = write_submission(board, asked, "elsewhere", seed=40, ability=-0.5, strategy="steady", base_model="tiny")
    edit_json(where.path / "evals" / "made@1" / "summary.json", lambda summary: summary["engine"].update(name="vllm"))
    reseal(board, where, seed=0)
    write_submission(board, asked, "alone", seed=77, strategy="dynamic", base_model="other")
    standings = rank_submissions(board, verify(board))
    build_site({"board": standings}, tmp_path / "site")
    open_page(driver, (tmp_path / "site" / "index.html").as_uri())
    rows = driver.execute_script("return [...document.querySelectorAll('[data-strategy]')].map(r => "
                                 "[r.dataset.strategy, ...[...r.cells].map(c => c.textContent)])")  # fmt: skip
    assert [row[0] for row in rows] == ["dynamic", "uniform", "datasize", "steady"]
    assert rows[1][3] == "baseline"
    assert len(driver.find_elements("css selector", "svg.whisker")) == 2
    # The numbers are as the data file has them, which test_one_statistics.py compares with a table's JSON.
    [model] = json.loads(re.search(r"\{.*\}", (tmp_path / "site/data/board.js").read_text())[0])["suites"][0]["models"]
    average = model["columns"]["average"]
    signs = [f"{100 * average[key][model['strategies'].index('dynamic')]:+.1f}" for key in "dlu"]
    assert [rows[0][3], rows[0][5]] == [signs[0], f"{signs[1]} to {signs[2]}"]
    given = {name: f"{s} {m}" for name, s, m in zip(model["strategies"], average["s"], average["m"], strict=True)}
    assert [row[6] for row in rows] == [given["dynamic"], "", given["datasize"], ""]
    assert given["dynamic"] == "better *"
    assert texts(driver, "p.note")[:-1] == model["notes"]
    assert rows[3][3:7] == ["another engine", "", "–", ""]
    click(driver, "[data-strategy='dynamic'] a")
    until(lambda: driver.find_elements("css selector", "#table"), "the table of one strategy")
    assert set(models(driver)) == {"dynamic-0", "dynamic-1", "dynamic-2", "alone"}
    assert texts(driver, "td.name small")[0].startswith(" seed ")
    assert driver.get_log("browser") == []


def test_another_suite_version_is_chosen(page):
    from selenium.webdriver.support.select import Select

    Select(page.find_element("id", "suite")).select_by_visible_text("made@2")
    until(lambda: "No submission yet." in page.page_source, "the other version")


def compared(page, first: str, second: str) -> list[dict[str, str]]:
    """The data of each column's difference on the comparison page."""
    go(page, f"#c/{first}/{second}", f"h2 a[href='#s/{first}']:first-child")
    until(lambda: texts(page, "h2 a")[:2] and page.execute_script("return location.hash") == f"#c/{first}/{second}", "")
    script = "return [...document.querySelectorAll('[data-difference]')].map(e => ({...e.dataset}))"
    return until(lambda: page.execute_script(script), "the differences")


def test_two_are_compared_as_the_statistics_do_it(page, built):
    ids = {s.model: s.name for s in built[0].submissions()}
    names = ["model-05", "hostile"]
    standings = rank_submissions(built[0], verify(built[0]))
    standing = standings.suites[0]
    rows = {standings.submission(row).model: at for at, row in enumerate(standing.rows)}
    vectors = {name: {v.task: v.values for v in standings.checked[standing.rows[rows[name]]].vectors["made@1"]}
               for name in names}  # fmt: skip

    def part(task: str, weight: float) -> estimates.Part:
        scores = (vectors[names[1]][task] - vectors[names[0]][task])[None]
        return estimates.Part(weight, scores, np.arange(scores.shape[1]))

    expected = [estimates.estimate([part(task, 1.0)]) for task in SIZES]
    expected.append(estimates.estimate([part(task, 1 / 3) for task in SIZES]))
    cells = compared(page, ids[names[1]], ids[names[0]])
    assert len(cells) == 4
    for cell, estimate in zip(cells, expected, strict=True):
        interval = estimate.interval(estimates.FRACTION_DIFFERENCE)
        shown = [float(cell[key]) for key in ("difference", "low", "high", "p")]
        assert shown == pytest.approx([estimate.value, *interval, estimates.p_value(estimate)], abs=1e-5)
    for cell, name in zip(cells, standing.columns, strict=True):
        pair = standing.ranking.against(name, rows[names[1]], np.array([rows[names[0]]]))
        assert float(cell["corrected"]) == pytest.approx(float(pair.p_adjusted[0]), abs=1e-5)
    verdicts = page.execute_script(
        "return [...document.querySelectorAll('[data-verdict]')].map(e => e.dataset.verdict)"
    )
    expected = [standing.ranking.against(name, rows[names[1]]).verdicts for name in standing.columns]
    assert verdicts == [found[rows[names[0]]] for found in expected]
    assert "better" in verdicts
    stars = [text.endswith(" *") for text in texts(page, "[data-difference]")]
    assert stars == [verdict != "undecided" for verdict in verdicts]


def test_a_comparison_is_the_same_from_the_other_side(page, built):
    ids = {s.model: s.name for s in built[0].submissions()}
    there = compared(page, ids["model-05"], ids["model-55"])
    counts = texts(page, "table.comparison td:last-child")
    back = compared(page, ids["model-55"], ids["model-05"])
    assert [text.split(" / ")[::-1] for text in texts(page, "table.comparison td:last-child")] == [
        text.split(" / ") for text in counts
    ]
    for one, other in zip(there, back, strict=True):
        assert float(one["difference"]) == -float(other["difference"])
        assert (float(one["low"]), float(one["high"])) == (-float(other["high"]), -float(other["low"]))
        assert one["corrected"] == other["corrected"]


def test_a_large_board_shows_verdicts_and_the_command_for_the_rest(built, driver, tmp_path, monkeypatch):
    monkeypatch.setattr("leaderboards.board.pairs.EXACT_ROWS", 10)
    standings = rank_submissions(built[0], verify(built[0]))
    build_site({"board": standings}, tmp_path / "site")
    assert not list((tmp_path / "site" / "data" / "p").iterdir()) or not standings.suites[0].rows
    ids = {s.model: s.name for s in built[0].submissions()}
    open_page(driver, f"{(tmp_path / 'site' / 'index.html').as_uri()}#c/{ids['hostile']}/{ids['model-05']}")
    until(lambda: driver.find_elements("css selector", "table.comparison"), "the comparison")
    assert "better" in texts(driver, "[data-verdict]")
    assert texts(driver, "p.note code") == [f"moemix board compare DIR {ids['hostile']} {ids['model-05']}"]
    assert driver.get_log("browser") == []


def test_the_pages_compute_no_statistics():
    script = (Path(leaderboards.__file__).parent / "site" / "site.js").read_text()
    for word in ("Math.sqrt", "Math.exp", "Math.log", "0.05", "1.96", "variance", "quantile"):
        assert word not in script, word


def test_ticking_two_leads_to_their_comparison(page):
    assert not page.find_element("id", "compare").is_enabled()
    boxes = page.find_elements("css selector", "#table input[type=checkbox]")
    chosen = [box.get_attribute("data-id") for box in boxes[:2]]
    for box in boxes[:2]:
        box.click()
    click(page, "#compare")
    until(lambda: page.find_elements("css selector", "table.comparison"), "the comparison")
    assert page.execute_script("return location.hash") == f"#c/{chosen[0]}/{chosen[1]}"
    page.back()


def test_a_submission_shows_scores_mixture_provenance_checks_and_its_record(page, built):
    where = next(s for s in built[0].submissions() if s.model == "model-40")
    go(page, f"#s/{where.name}", "dl")
    text = page.find_element("id", "main").text
    assert f"moemix board verify DIR --only {where.name} --replay" in text
    assert "10M" in text or "1B" in text or "1M" in text or "100M" in text or "10B" in text
    for part in ("model-40", where.name, "someone@example.org", "MIT", "95 % interval", "hashes", "lm_eval 0.4.13"):
        assert part in text, part
    assert page.execute_script("return document.querySelectorAll('#main > svg path.line').length") == 3
    assert texts(page, "#main > svg path.line title") == ["chat", "code", "math"]
    link = page.find_element("id", "record").get_attribute("href")
    assert link.endswith(f"records/{where.name}.json")
    record = json.loads((built[1] / "records" / f"{where.name}.json").read_text())
    assert record["submission"]["model"] == "model-40"
    assert record["scores"]["made@1"]["average"]["n"] == sum(SIZES.values())


def test_samples_are_read_beside_another_submission_s(page, built):
    from selenium.webdriver.support.select import Select

    ids = {s.model: s for s in built[0].submissions()}
    one, other = ids["model-40"], ids["hostile"]
    go(page, f"#s/{one.name}", f"a[href='#q/made@1/count/{one.name}']")
    click(page, f"a[href='#q/made@1/count/{one.name}']")
    until(lambda: page.find_elements("css selector", "#beside"), "the samples")
    Select(page.find_element("id", "beside")).select_by_visible_text("hostile seed 200")
    until(lambda: len(page.find_elements("css selector", ".sample:first-of-type .answer")) == 2, "the other's answers")
    lines = [json.loads((where.path / "evals/made@1/samples_count.jsonl").read_text().splitlines()[0])
             for where in (one, other)]  # fmt: skip
    assert texts(page, ".sample:first-of-type .answer pre") == [line["resps"][0][0] for line in lines]
    assert texts(page, ".sample:first-of-type > pre") == [lines[0]["arguments"]["gen_args_0"]["arg_0"]]
    assert [text.rsplit(" ", 1)[1] for text in texts(page, ".sample:first-of-type .answer p")] == [
        f"{line['exact_match']:g}" for line in lines]  # fmt: skip
    open_page(page, page.current_url.replace("/count/", "/pick/"))
    assert len(texts(page, ".sample")) == 25
    click(page, ".pager button:nth-of-type(2)")
    until(lambda: texts(page, "#count") == ["page 2 of 2"], "the second page")
    assert len(texts(page, ".sample")) == SIZES["pick"] - 25
    go(page, "#q/made@1/nothing/x", "h2")
    until(lambda: texts(page, "h2") == ["There is no such page"], "the refusal")


def test_ten_thousand_questions_are_paged(driver, tmp_path):
    """The first, the next and the last page of two submissions' answers, each there within 200 ms."""
    board, asked = make_board(tmp_path / "board", {"count": 10_000})
    one, other = (write_submission(board, asked, name, seed=seed) for seed, name in enumerate(("one", "other")))
    build_site({"board": rank_submissions(board, verify(board))}, tmp_path / "site")
    address = f"{(tmp_path / 'site' / 'index.html').as_uri()}#q/made@1/count/{one.name}/{other.name}"
    open_page(driver, address)
    until(lambda: texts(driver, "#count") == ["page 1 of 400"], "the first page")
    turn = """
        const [page, done] = arguments, start = performance.now(), main = document.getElementById("main");
        const seen = new MutationObserver(() => {
          if (document.getElementById("count")?.textContent !== `page ${page} of 400`) return;
          seen.disconnect();
          main.getBoundingClientRect();
          done(performance.now() - start);
        });
        seen.observe(main, { childList: true });"""
    jump = "const p = document.getElementById('page'); p.value = %d; p.dispatchEvent(new Event('change'))"
    click_next = "document.querySelector('.pager button:nth-of-type(2)').click()"
    waits = []
    for act, page in ((jump % 400, 400), (jump % 200, 200), *[(click_next, 201 + k) for k in range(4)]):
        waits.append(driver.execute_async_script(f"{turn}\n{act}", page))
        numbers = [int(text.removeprefix("Question ")) for text in texts(driver, ".sample h3")]
        assert numbers == list(range(25 * (page - 1), 25 * page))
        assert len(texts(driver, ".sample:first-of-type .answer")) == 2
    assert sorted(waits)[len(waits) // 2] < 200, waits
    open_page(driver, driver.current_url)
    assert texts(driver, "#count") == ["page 204 of 400"]
    assert driver.get_log("browser") == []


def test_judged_conversations_are_read_with_the_judgment_beside_another_submission_s(page, built):
    from selenium.webdriver.support.select import Select

    ids = {s.model: s.name for s in built[0].submissions()}
    go(page, f"#s/{ids['hostile']}", "a[href^='#j/']")
    assert "MT-Bench" in page.find_element("id", "main").text
    click(page, "a[href^='#j/']")
    until(lambda: texts(page, ".sample"), "the conversations")
    assert page.title.startswith("MT-Bench: conversations of hostile")
    assert texts(page, "#count") == ["page 1 of 2"]
    assert texts(page, ".sample h3")[:2] == ["Question 81 writing", "Question 82 writing"]
    assert texts(page, ".sample:first-of-type > pre") == ["ask 81", "more 81"]
    assert texts(page, ".sample:first-of-type .answer:first-of-type pre")[:2] == [f"say 81 {MARKUP}", f"[[3]] {MARKUP}"]
    assert texts(page, ".sample:first-of-type .judgment") == ["j: 3", "j: 4"]
    Select(page.find_element("id", "beside")).select_by_visible_text("model-40 seed 40")
    until(lambda: len(texts(page, ".sample:first-of-type .answer")) == 4, "the other's answers")
    long = texts(page, ".sample:first-of-type .answer:nth-of-type(2) pre")[0]
    assert long.startswith("say 81 xxx")
    assert len(long) == 2002
    click(page, ".pager button:nth-of-type(2)")
    until(lambda: texts(page, "#count") == ["page 2 of 2"], "the second page")
    assert texts(page, ".sample h3") == ["Question 91 writing", "Question 92 writing"]
    open_page(page, page.current_url)
    assert len(texts(page, ".sample:first-of-type .answer")) == 4
    assert (
        page.execute_script("return document.querySelectorAll('#main img, #main script, #main textarea').length") == 0
    )
    go(page, f"#j/mt_bench/{ids['model-05']}", "h2")
    until(lambda: texts(page, "h2") == ["There is no such page"], "the refusal")


def test_score_stands_against_active_size(page, built):
    """Every submission is drawn at its place, filters apply, and a click opens the nearest one."""
    from selenium.webdriver.common.action_chains import ActionChains

    click(page, ".tabs a[href^='#z/']")
    drawn = "return [...document.querySelectorAll('svg.scatter path.dot')].map(e => e.getAttribute('d'))"
    until(lambda: page.execute_script(drawn), "the chart")
    places = [
        tuple(map(float, at.split())) for d in page.execute_script(drawn) for at in re.findall(r"M([\d. ]+)h0", d)
    ]
    standings = rank_submissions(built[0], verify(built[0]))
    assert len(places) == len(standings.suites[0].rows)
    assert len({x for x, _ in places}) == 5  # the sizes of these submissions
    assert set(texts(page, "svg.scatter text")) >= {"1M", "10M", "100M", "1B", "10B", "active parameters"}
    page.find_element("id", "query").send_keys("model-40")
    assert page.execute_script(drawn) == [d for d in page.execute_script(drawn) if d.count("M") == 1]
    ActionChains(page).move_to_element(page.find_element("css selector", "svg.scatter")).perform()
    assert texts(page, "#nearest")[0].startswith("model-40 seed 40: ")
    open_page(page, page.current_url)
    assert len(page.execute_script(drawn)) == 1
    page.find_element("css selector", "svg.scatter").click()
    until(lambda: page.find_elements("css selector", "dl"), "the submission")
    assert page.title.startswith("model-40")


def test_tasks_are_drawn_side_by_side(page, built):
    ids = {s.model: s.name for s in built[0].submissions()}
    names = ["model-40", "model-05", "hostile"]
    for count in (1, 2, 3):
        go(page, f"#{'sc'[count > 1]}/" + "/".join(ids[name] for name in names[:count]), "h2")
        until(lambda n=count: len(texts(page, "table.tasks thead th")) == 2 + n, "the profile")
        assert texts(page, "table.tasks tbody td:first-child") == ["pick", "count", "run"]
        assert len(page.find_elements("css selector", "table.tasks svg.profile path.dot")) == 3 * count
        standings = rank_submissions(built[0], verify(built[0]))
        scores = next(c for c in standings.checked if c.label.endswith(ids["model-40"])).vectors["made@1"]
        shown = [text.split()[0] for text in texts(page, "table.tasks tbody td:nth-child(3)")]
        assert shown == [f"{100 * vector.values.mean():.1f}" for vector in scores]


def test_the_last_lines_name_licence_date_and_how_to_submit(page):
    text = page.find_element("css selector", "footer").text
    assert re.search(r"Built 20\d\d-\d\d-\d\d \d\d:\d\d UTC", text)
    assert "moemix submit RUN_OR_CHECKPOINT --board DIR --pr" in text
    assert "Licence of this board: CC-BY-4.0." in text


def test_a_column_and_a_task_have_pages(page):
    go(page, "#t/made@1/average", "#table")
    assert {"pick", "count", "run"} <= set(texts(page, "#main table td a"))
    go(page, "#t/made@1/average/count", "h2")
    until(lambda: texts(page, "h2")[0].startswith("count"), "the task's page")
    assert "exact_match" in texts(page, "#main table td")
    values = [float(text.split()[0]) for text in texts(page, "#table tbody td:nth-child(6)")]
    assert values == sorted(values, reverse=True)
    go(page, "#t/made@1/nothing", "h2")
    assert texts(page, "h2") == ["There is no such page"]


def test_an_embedded_table_is_the_table_alone(page, built):
    open_page(page, f"{(built[1] / 'index.html').as_uri()}#b/made@1?embed=&sort=pick")
    assert not page.find_element("css selector", "header nav").is_displayed()
    assert not page.find_element("id", "query").is_displayed()
    assert page.find_element("id", "table").is_displayed()
    assert "embed" in page.current_url


def barriers(driver: Any, built: tuple[BoardFolder, Path], most: int | None = None) -> list[str]:
    """What axe finds against accessibility in every view, or in the first ones."""
    ids = {s.model: s.name for s in built[0].submissions()}
    one, two, three = ids["hostile"], ids["model-40"], ids["model-05"]
    found = []
    views = (
        ("#b/made@1", "#table"), ("#v/made@1", "p.note"), (f"#s/{one}", "dl"), ("#history", "table"),
        (f"#c/{one}/{two}", "h2"), (f"#c/{one}/{two}/{three}", "h2"), ("#t/made@1/average", "h2"),
        (f"#q/made@1/pick/{one}/{two}/0", ".sample"), ("#b/made@2", "#place p"),
        (f"#j/mt_bench/{one}/{two}/0", ".sample"), ("#z/made@1", "svg.scatter"),
    )  # fmt: skip
    for view, sign in views[:most]:
        open_page(driver, (built[1] / "index.html").as_uri() + view)
        until(lambda sign=sign: driver.find_elements("css selector", sign), view)
        found += [f"{view} {text}" for text in axe_violations(driver)]
    return found


def test_every_view_is_accessible(page, built):
    assert barriers(page, built) == []


def test_superseded_and_withdrawn_are_history(page):
    assert "model-01" not in models(page)
    go(page, "#history", "table")
    text = page.find_element("id", "main").text
    assert "superseded" in text
    assert "withdrawn" in text
    assert "model-01" in text


def test_the_keyboard_is_enough(page):
    from selenium.webdriver.common.keys import Keys

    page.find_element("tag name", "body").send_keys("/")
    assert page.execute_script("return document.activeElement.id") == "query"
    page.switch_to.active_element.send_keys("model-6" + Keys.ESCAPE)
    assert len(models(page)) == 2
    button = page.find_element("css selector", "button[data-sort='pick']")
    page.execute_script("arguments[0].focus()", button)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    focused = "return document.activeElement.getAttribute('data-sort')"
    assert page.execute_script(focused) == "pick"  # still there, in the table that was drawn anew
    page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.execute_script(focused) == "count"
    page.execute_script("const q = document.getElementById('query'); q.value = ''; q.dispatchEvent(new Event('input'))")


def test_a_hostile_submission_is_text_and_no_script_runs(page, built):
    where = next(s for s in built[0].submissions() if s.model == "hostile")
    assert MARKUP[:60] in page.find_element("id", "main").text
    for fragment in (f"#s/{where.name}", "#history", f"#c/{where.name}/{where.name}", "#t/made@1/%3Cscript%3E/x"):
        go(page, fragment, "h2")
        until(lambda: page.execute_script("return document.readyState") == "complete", "the page")
        assert (
            page.execute_script("return document.querySelectorAll('#main script, #main img, #main textarea').length")
            == 0
        )
        assert page.execute_script("return typeof owned") == "undefined"
    go(page, f"#s/{where.name}", "dl")
    links = page.execute_script("return [...document.querySelectorAll('#main a')].map(a => a.protocol)")
    assert set(links) <= {"https:", "file:"}
    assert page.title.startswith("hostile")
    assert page.title.endswith(" · A board")


def test_even_a_smuggled_script_would_not_run(page):
    """The page's policy refuses inline scripts and handlers, so an escaping mistake would still do nothing."""
    page.execute_script(
        "const d = document.createElement('div'); d.innerHTML = \"<img src='nothing.png' onerror='owned=1'>\";"
        "document.body.append(d); const s = document.createElement('script'); s.textContent = 'owned=1';"
        "document.body.append(s)"
    )
    blocked = until(lambda: page.get_log("browser"), "the browser's refusal")
    assert any("Content Security Policy" in entry["message"] for entry in blocked)
    page.get_log("browser")


def test_a_phone_shows_it_without_scrolling_sideways(built, tmp_path):
    with chromium(tmp_path / "phone", width=390, height=700, dark=True) as phone:
        open_page(phone, f"{(built[1] / 'index.html').as_uri()}#b/made@1")
        assert len(models(phone)) == 50
        wide = "return document.documentElement.scrollWidth > screen.width"
        assert not phone.execute_script(wide)
        edge = "const r = [...document.querySelectorAll('#table tbody tr:first-child td')].filter(c => c.offsetWidth)"
        assert "±" in phone.execute_script(f"{edge}; return r.at(-1).textContent")
        assert phone.execute_script(f"{edge}; return r.at(-1).getBoundingClientRect().right <= innerWidth")
        dark = phone.execute_script("return getComputedStyle(document.body).backgroundColor")
        click(phone, "#theme")
        assert phone.execute_script("return getComputedStyle(document.body).backgroundColor") != dark
        where = next(s for s in built[0].submissions() if s.model == "hostile")
        for view, sign in (
            (f"#j/mt_bench/{where.name}", ".sample"),
            ("#z/made@1", ".scatter"),
            (f"#s/{where.name}", "dl"),
        ):
            go(phone, view, sign)
            assert not phone.execute_script(wide), view
        assert barriers(phone, built, most=5) == []
        assert phone.get_log("browser") == []


def test_served_it_is_the_same_and_asks_nobody_else(built, driver):
    with server(built[1], "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_address[1]}/"
        driver.get_log("browser")
        open_page(driver, f"{address}#b/made@1")
        assert len(models(driver)) == 50
        asked = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert asked
        assert all(name.startswith(address) for name in asked)
        assert [e for e in driver.get_log("browser") if "favicon" not in e["message"]] == []
        running.shutdown()


def test_several_boards_stand_side_by_side(built, driver, tmp_path):
    standings = rank_submissions(built[0], verify(built[0]))
    build_site({"one": standings, "two": standings}, tmp_path / "site")
    driver.get((tmp_path / "site" / "index.html").as_uri())
    assert texts(driver, ".boards a") == ["A board", "A board"]
    click(driver, ".boards a")
    until(lambda: driver.find_elements("css selector", "#suite"), "the first board")
    assert "one/index.html" in driver.current_url
