"""The report as Markdown and as HTML: the same content, and a page that works in a real browser."""

import json
import re
from html import unescape

import pytest

from pipeline.benchmark.document import UNTIMED
from pipeline.parity.document import Parity
from pipeline.report import html, markdown
from pipeline.report.charts import charts
from pipeline.report.content import content
from pipeline.report.document import Documents
from pipeline.report.words import milliseconds
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
    assert "| onnxruntime-cpu | exported program | **FAIL** | " in part
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


def test_in_a_failed_report_the_failing_cases_come_first_each_with_its_numbers(failed):
    documents = Documents(Parity.read(failed / "parity.json"), UNTIMED)
    found = section(documents, "Parity, every output of every case")
    factors = [each.factor for each in documents.parity.backends[0].findings]
    assert float(found.body[0][5].split()[0]) == pytest.approx(max(factors), rel=0.01)
    assert found.body[0][-1] == "2.32084012 instead of 2.27533349"
    assert set(found.tones) == {"bad"}
    page = (failed / "report.html").read_text()
    assert page.count('<td role="cell" data-label="verdict" class="short bad">FAIL</td>') >= len(found.body)
    titles = [each.title for each in content("s", documents).sections]
    assert titles.index("Where it goes wrong") < titles.index(found.title) < titles.index("Where nodes ran")


def fail_the_second(**changes):
    def change(found):
        found["parity"]["backends"][1].update(status="fail", **changes)

    return change


def test_a_backend_that_failed_for_something_else_than_its_outputs_says_so_above_its_cases(edited):
    forged = "the file it runs holds what the network does not: fc1.bias is 0"
    found = section(edited(fail_the_second(reason=forged)), "Parity, every output of every case")
    assert (found.body[0][0], found.body[0][4], found.tones[0]) == ("torchscript", "FAIL", "bad")
    assert found.body[0][-1] == f"not for its outputs, which are right in the 8 of 8 cases that it ran: {forged}"
    assert {row[0] for row in found.body[1:9]} == {"torchscript"}


def test_one_wrong_case_among_right_ones_is_the_first_row(edited):
    def change(found):
        backend = found["parity"]["backends"][2]
        backend.update(status="fail", reason="it is wrong")
        backend["findings"][5].update(passed=False, factor=40.0, got=1.0, expected=2.0)

    found = section(edited(change), "Parity, every output of every case")
    assert found.body[0][:6] == ("onnxruntime-cpu", "logits", "constant", "batch=5", "FAIL", "40 of 16")
    assert found.tones[:2] == ("bad", "good")


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
    assert count == 11
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
    assert {"td.good", "td.bad", "td.warn"} <= set(contrasts)
    assert min(contrasts.values()) >= 4.5, contrasts
    assert page.errors() == []


def test_on_a_phone_each_row_is_a_card_with_every_cell_behind_its_label_and_nothing_is_cut(page):
    page.resize(390)
    assert (
        page.script("return [...document.querySelectorAll('.table')].filter(e => e.scrollWidth > e.clientWidth)") == []
    )
    cut = "return [...document.querySelectorAll('td, p, li, pre, h1, h2')].filter(e => e.getBoundingClientRect().right > innerWidth).length"
    assert page.script(cut) == 0
    label = "return getComputedStyle(document.querySelector('td.long'), '::before').content"
    assert page.script(label) == '"verdict"'
    row = "return [...document.querySelectorAll('tbody tr')].map(e => [...e.cells].filter(c => c.textContent).map(c => c.getBoundingClientRect().left))"
    assert all(len(set(lefts)) <= 1 for lefts in page.script(row))
    gaps = "return [...document.querySelectorAll('td')].filter(e => !e.textContent && e.offsetHeight).length"
    assert page.script(gaps) == 0


def test_on_a_desk_the_reasons_of_verdicts_have_the_room_they_need(page):
    page.resize(1440)
    lines = """return [...document.querySelectorAll('#section-2 ~ .table td:last-child')].map(
        e => e.getClientRects()[0].height / parseFloat(getComputedStyle(e).lineHeight))"""
    assert max(page.script(lines)) < 3


@pytest.mark.parametrize("width", [390, 1440])
def test_verdict_and_next_step_are_on_the_first_screen(page, width):
    page.resize(width, 844)
    assert page.script("return document.querySelector('.next').getBoundingClientRect().bottom + scrollY") < 844
    assert page.script("return [...document.querySelectorAll('h1, h2')].map(e => e.tagName).join(' ')").startswith(
        "H1 H2"
    )
    unreachable = "return [...document.querySelectorAll('a, .table')].filter(e => e.tabIndex < 0).length"
    assert page.script(unreachable) == 0


def test_verdicts_are_told_in_words_and_in_colour(page):
    page.resize(1440)
    told = dict(
        page.script("return [...document.querySelectorAll('td.good, td.warn')].map(e => [e.textContent, e.className])")
    )
    assert told["pass"].endswith("good")
    assert told["faster"].endswith("good")
    assert told["not compared with the trained network"].endswith("warn")


def test_plots_and_tables_have_accessible_names(page):
    assert page.script("return [...document.querySelectorAll('.plot, .table')].filter(e => !e.ariaLabel).length") == 0
    assert page.script("return document.documentElement.lang") == "en"
    assert page.script("return document.querySelectorAll('h1').length") == 1


def drawn(documents, chart):
    """The values that a plot draws first, of the specification that its page holds."""
    spec = charts(documents)[chart][1]
    name = next(each["data"]["name"] for each in (spec, *spec.get("layer", ())) if "data" in each)
    return spec["datasets"][name]


def test_the_chart_and_the_table_of_starting_have_the_same_figures(documents):
    table = section(documents, "Cold start and memory")
    for row in table.body:
        cells = dict(zip(table.headings, row, strict=True))
        parts = {each["part"]: each["ms"] for each in drawn(documents, "cold") if each["backend"] == row[0]}
        assert {name: milliseconds(ms) for name, ms in parts.items()} == {name: cells[name] for name in parts}
        assert list(parts) == ["process", "import", "load", "first call"]
        assert cells["together"] == milliseconds(sum(parts.values()))


def test_the_chart_of_latencies_shows_the_calls_that_the_table_does(documents):
    rows = {row.name: row for row in documents.benchmark.sizes[0].rows}
    for each in drawn(documents, "latency-0"):
        assert each["p50"] == rows[each["backend"]].p50.value_ms
        assert each["p95"] == rows[each["backend"]].p95.value_ms
    caption = charts(documents)["latency-0"][0]
    assert "in ms, batch=1, logarithmic axis: line from the 5th to the 95th percentile" in caption


@pytest.mark.parametrize("chart", ["ratio-0", "latency-0", "throughput", "cold", "memory", "parity"])
def test_a_caption_names_the_axis_that_its_plot_has(documents, chart):
    caption, spec = charts(documents)[chart]
    scales = re.findall(r'"type": "(log)"', json.dumps(spec))
    assert ("logarithmic" in caption) == bool(scales)
    units = {"latency-0": "ms", "cold": "ms", "memory": "MB", "throughput": "tems a second"}
    assert units.get(chart, "") in caption


def test_the_caption_of_errors_counts_its_points_and_names_its_marks(edited):
    def change(found):
        for each in found["parity"]["backends"][0]["findings"][:2]:
            each.update(factor="inf", passed=False)

    documents = edited(change)
    caption, spec = charts(documents)["parity"]
    assert f"{len(drawn(documents, 'parity'))} points" in caption
    assert "2 that are no number are in the table alone" in caption
    assert "red line: the limit" in caption
    assert spec["layer"][1]["mark"]["color"] == "#d73027"


# Source of the formula: WCAG 2.2, relative luminance and contrast ratio.
CONTRAST = """
const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = css => css.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = each => {
  for (; each; each = each.parentElement) {
    const css = getComputedStyle(each).backgroundColor;
    if (!css.endsWith(", 0)")) return luminance(css);
  }
};
const probe = document.createElement("table");  // a tone that this report happens not to have is read all the same
probe.innerHTML = ["good", "bad", "warn"].map(tone => `<tr><td class="${tone}">x</td></tr>`).join("");
document.querySelector("main").append(probe);
const found = {};
for (const name of ["body", "h1 span", "a", "th", "figcaption", ".verdict li", ".next", "td.good", "td.bad", "td.warn", "pre code"]) {
  const each = document.querySelector(name);
  const text = luminance(getComputedStyle(each).color), back = behind(each);
  found[name] = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
}
probe.remove();
return found;
"""
