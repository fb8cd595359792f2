"""The transcript shows question, answer, verdict and explanation, filters them, and lets nothing inside them run."""

from __future__ import annotations

import html.parser
import json
import shutil
import subprocess

import pytest
from fake_judge import FakeJudge
from small_judgings import CATEGORIES, answer_file, bench_file, judged, write_lines

ATTACK = "</pre><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\"'><b>&amp;"


class Reader(html.parser.HTMLParser):
    """What a browser makes of the page: its tags, and its texts."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transcript")
    bench_file(folder, 4)
    write_lines(
        folder / "bench.jsonl",
        [
            {"question_id": n, "category": CATEGORIES[n % 2], "turns": [f"ask {n} {ATTACK}", "then"],
             "reference": [ATTACK, "two"]}
            for n in range(1, 5)
        ],
    )  # fmt: skip
    answer_file(folder, f"mine{ATTACK[:9].replace('/', '')}", 4, lambda n: [f"answer {n} {ATTACK}", f"more {n}"])
    (folder / "mine<pre><sc.jsonl").rename(folder / "mine.jsonl")
    with FakeJudge(lambda *_: json.dumps({"explanation": ATTACK, "rating": 6})) as judge:
        judged(folder, judge.url)
    return folder / "out" / "transcript.html"


def test_every_string_is_escaped(page):
    reader = Reader()
    reader.feed(page.read_text())
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert "b" not in tags
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    text = "".join(reader.texts)
    assert text.count(f"answer 2 {ATTACK}") == 2  # shown with its first and with its second turn
    assert "ask 3" in text
    assert "mine<pre><sc" in text
    assert "Content-Security-Policy" in page.read_text()


def test_each_judgment_is_an_article_in_the_benchs_order(page):
    reader = Reader()
    reader.feed(page.read_text())
    articles = [attributes for tag, attributes in reader.tags if tag == "article"]
    assert [article["data-turn"] for article in articles] == ["1", "2"] * 4
    assert [article["data-category"] for article in articles[::2]] == ["math", "writing", "math", "writing"]
    assert {article["data-state"] for article in articles} == {"judged"}


def test_a_browser_runs_our_script_alone_and_filters(page):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser on this machine")
    # the filter runs on load; whatever an answer smuggled in would have changed the title
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    assert "<output>8 of 8</output>" in dom
    assert "<title>owned" not in dom
