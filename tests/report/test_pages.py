"""The report as Markdown and as HTML: the same content, and a page that works in a real browser."""

import json
import re
from html import unescape

import pytest

from pipeline.benchmark.document import UNTIMED
from pipeline.parity.document import Parity
from pipeline.report import html, markdown
from pipeline.report.content import content
from pipeline.report.document import Documents
from tests.report import chromium


@pytest.fixture(scope="module")
def page_file(documents, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(html.render("simplenet", documents), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def page(page_file):
    if reason := chromium.missing():
        pytest.skip(reason)
    with chromium.opened(page_file) as opened:
        yield opened


def test_the_verdict_comes_first_and_names_the_fastest(documents):
    found = content("simplenet", documents)
    assert (found.passed, found.headline) == (True, "verified")
    assert found.verdict[0].startswith("Every output of")
    assert found.verdict[1].startswith("At batch=1 onnxruntime-cpu takes 0.33 of the time of eager")


def test_a_failed_backend_is_the_verdict_and_there_is_nothing_to_run(edited):
    failed = {"status": "fail", "required": True, "reason": "output 'logits' is 40 × the noise floor"}
    found = content("simplenet", edited(lambda each: each["parity"]["backends"][1].update(failed)))
    assert (found.passed, found.headline) == (False, "no release")
    assert "40 × the noise floor" in found.verdict[0]
    assert "How to run it" not in {section.title for section in found.sections}


def section(documents, title):
    return next((each for each in content("s", documents).sections if each.title == title), None)


def test_where_nodes_ran_is_told_and_what_was_left_on_the_cpu_is_named(documents, edited):
    (row,) = section(documents, "Where nodes ran").body
    assert row[:3] == ("onnxruntime-cpu", "CPUExecutionProvider", "2 (100%)")
    assert row[3].endswith("(100%)")

    def leave(found):
        facts = next(each["facts"] for each in found["parity"]["backends"] if "placement" in each["facts"])
        facts["placement"] |= {"copies": 2, "left_on_cpu": [{"node": "node_conv", "operator": "Conv", "ms": 1.0}]}

    text = section(edited(leave), "Where nodes ran").text
    assert "onnxruntime-cpu: 1 of its nodes computed on the CPU: node_conv (Conv)." in text
    assert "onnxruntime-cpu: 2 copies between devices." in text


def test_what_copies_to_a_gpu_cost_and_what_throttled_it_is_told(documents, edited):
    assert section(documents, "GPU") is None
    clocks = {"sm_mhz": 1200, "max_sm_mhz": 1980, "memory_mhz": 2600, "temperature_c": 60, "power_w": 70.0}
    gpu = {"device_ms": {"batch=1": 0.2}, "changed_ms": {"batch=1": 770.0}, **clocks, "throttled_by": ["power cap"]}
    (row,) = section(edited(lambda each: each["benchmark"]["figures"]["backends"][2].update(gpu=gpu)), "GPU").body
    assert row[:2] == ("onnxruntime-cpu", "batch=1")
    assert row[2].startswith("0.5")
    assert row[3:] == ("0.2 ms", "770 ms", "1200 of 1980 MHz", "2600 MHz", "power cap")


def test_what_a_run_cannot_tell_is_said_in_the_verdict(edited):
    def undecided(each):
        size = each["benchmark"]["sizes"][0]
        size |= {"can_tell": False, "reason": "two copies of eager differ"}
        for row in size["rows"][1:]:
            row["verdict"] = "undecided"

    found = content("s", edited(undecided))
    assert any("cannot be told: two copies of eager differ" in each for each in found.verdict)


def test_markdown_and_html_say_the_same(documents, page_file):
    text, page = markdown.render("simplenet", documents), page_file.read_text(encoding="utf-8")
    for each in content("simplenet", documents).sections:
        assert f"## {each.title}\n" in text
        assert f">{each.title}</h2>" in page
    for title in ("Latency, batch=1", "Throughput", "Cold start and memory", "Roofline", "Machine and versions"):
        assert f"## {title}\n" in text


SAID = (
    "torchscript: the first rung that breaks is 'torchscript' (smallest case 'minimum': batch=1); the error begins in module second: ",
    "onnxruntime-cpu: the first rung that breaks is 'exported program' (smallest case 'minimum': batch=1); ",
)


def test_a_failed_report_says_in_words_where_the_error_begins(failed):
    whole = (failed / "report.md").read_text()
    part = whole.partition("## Where it goes wrong\n")[2].partition("\n## ")[0]
    assert all(f"\n{sentence}" in part for sentence in SAID)
    assert "| torchscript | float32 eager | pass | 0." in part
    assert "| onnxruntime-cpu | exported program | FAIL | " in part
    assert not set("{}") & set(part)
    page = unescape((failed / "report.html").read_text())
    assert all(f"<p>{sentence}" in page for sentence in SAID)


def test_a_failed_report_shows_in_a_browser_where_the_error_begins(failed):
    if reason := chromium.missing():
        pytest.skip(reason)
    with chromium.opened(failed / "report.html") as page:
        title = "[...document.querySelectorAll('h2')].find(each => each.textContent === 'Where it goes wrong')"
        text = page.script(f"return {title}.parentElement.innerText")
        assert page.errors() == []
    assert all(sentence in text for sentence in SAID)
    assert not set("{}") & set(text)


def test_what_reproduces_an_error_is_named(edited):
    culprit = {"module": "fc2", "output": "linear_1", "node": "node_linear_1", "operator": "Gemm", "source": "net.py:7"}
    explanation = {
        "backend": "ort", "case": {"name": "odd", "sizes": {"batch": 3}, "elements": 12}, "ladder": [], "broke": None,
        "culprit": culprit | {"got": "nan", "expected": 1.5, "worst_index": [0, 2], "certain": False}, "problem": None,
        "reproduction": "culprits/ort/culprit.py",
    }  # fmt: skip
    text = section(edited(lambda each: each["parity"].update(explanations=[explanation])), "Where it goes wrong").text
    assert text[0].startswith(
        "ort: every rung of the ladder passes on its smallest case (smallest case 'odd': batch=3); "
    )
    assert text[0].endswith("probably begins in Gemm node_linear_1, of fc2, net.py:7: nan instead of 1.5 at [0, 2].")
    assert text[1:] == ("To see it alone: python culprits/ort/culprit.py",)


def test_a_release_that_was_not_timed_has_a_report_too(parity):
    untimed = Documents(parity, UNTIMED)
    assert "Parity, every output of every case" in markdown.render("simplenet", untimed)
    assert "plot-parity" in html.render("simplenet", untimed)


def test_the_page_is_one_file_under_2_mb_that_asks_for_nothing(page_file):
    text = re.sub(r"<script>.*?</script>", "", page_file.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert page_file.stat().st_size < 2_000_000
    assert not re.search(r"<(?:script|img|iframe)[^>]*\ssrc=|<link[^>]*href=\"(?!data:)|@import|url\(http", text)


def test_names_cannot_write_into_the_page(parity, benchmark):
    hostile = "</script><script>alert(1)</script><b>"
    evil = Parity.from_text(json.dumps(parity.to_json()).replace("logits", hostile))
    text = html.render(hostile, Documents(evil, benchmark))
    assert "<script>alert" not in text
    assert text.count("</script>") == 2


def test_the_summary_of_a_ci_job_is_appended_to(tmp_path, monkeypatch):
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv(markdown.SUMMARY_VARIABLE, str(file))
    markdown.summarise("# after\n")
    assert file.read_text() == "before\n# after\n"


def test_every_plot_is_drawn_in_a_browser_without_an_error(page):
    page.resize(1440)
    count = page.script("return document.querySelectorAll('.plot').length")
    assert count == 10
    assert page.wait(f"return document.querySelectorAll('.plot svg').length === {count}")
    assert page.errors() == []
    assert page.script("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))") == []
    marks = "return [...document.querySelectorAll('.plot')].filter(e => !e.querySelector('.mark-rect path, .mark-symbol path, .mark-rule line')).map(e => e.id)"
    assert page.script(marks) == []


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_text_can_be_read(page, width, scheme):
    page.resize(width)
    page.prefer(scheme)
    fits = (
        "return [...document.querySelectorAll('.plot svg')].every(e => e.getBoundingClientRect().right <= innerWidth)"
    )
    assert page.wait(fits)
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    contrasts = page.script(CONTRAST)
    assert min(contrasts.values()) >= 4.5, contrasts
    assert page.errors() == []


def test_plots_and_tables_have_accessible_names(page):
    assert page.script("return [...document.querySelectorAll('.plot, .table')].filter(e => !e.ariaLabel).length") == 0
    assert page.script("return document.documentElement.lang") == "en"
    assert page.script("return document.querySelectorAll('h1').length") == 1


# Source of the formula: WCAG 2.2, relative luminance and contrast ratio.
CONTRAST = """
const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = css => css.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const back = luminance(getComputedStyle(document.body).backgroundColor);
const found = {};
for (const name of ["body", "h1 span", "a", "th", "figcaption"]) {
  const text = luminance(getComputedStyle(document.querySelector(name)).color);
  found[name] = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
}
return found;
"""
