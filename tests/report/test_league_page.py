"""The table of many releases as a page that works in a real browser, and as Markdown: all of it, escaped, and nothing asked for."""

from __future__ import annotations

import re

import pytest

from pipeline.report import league_page
from pipeline.report.league import Against, Entry, League, Row, Shift, TimedSizes, Timing
from pipeline.report.standings import COLUMNS
from tests.report import chromium
from tests.report.test_pages import CONTRAST

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>[x](javascript:1)`|**b**|{{ 7 * 7 }}"


def timing(batch, ratio, verdict="faster"):
    return Timing(
        sizes={"batch": batch}, reference="eager", verdict=verdict, ratio=ratio, interval=ratio and (ratio * 0.9, ratio * 1.1),
        median_ms=ratio and ratio * 3, median_interval_ms=None, launches=6,
    )  # fmt: skip


def entry(name, *rows, node=0, **more):
    return Entry(
        **{"name": name, "version": "1.0.0", "state": "released", "latest": True, "node": node, "rows": rows} | more,
    )


def row(backend, factor=None, ratio=None, verdict="pass", artifact="onnx", **more):
    timings = () if ratio is None else (timing(1, ratio), timing(32, ratio / 2, "undecided"))
    return Row(
        artifact=artifact,
        backend=backend,
        required=True,
        verdict=verdict,
        factor=factor,
        timings=timings,
        precision="own",
        **more,
    )


@pytest.fixture(scope="module")
def league(benchmark):
    """Two kinds of nodes, what was not timed, what failed, a name that is none, and an older table."""
    xeon = benchmark.machine.__class__(**{**_fields(benchmark.machine), "cpu_model": "Xeon"})
    against = Against(
        margin=0.05, same=7, notes=("net-1 is new",),
        shifts=(
            Shift(name="net-0", what="latency [ms]", where="ort, batch=1", outcome="worse", required=True, reason="95 %, p 0.001",
                  base=1.0, candidate=1.2, ratio=1.2, interval=(1.15, 1.25)),
            Shift(name=HOSTILE, what="verdict", where="", outcome="undecided", required=False, reason=HOSTILE),
        ),
    )  # fmt: skip
    entries = (
        entry(
            "net-0",
            row(
                "ort", 0.5, 0.9, size_bytes=2_000_000, peak_bytes=(7,), accuracy="pass", recommended="best for latency"
            ),
            row("torchscript", 10.0, 1.1, artifact="torchscript"),
        ),
        entry(
            "net-1",
            row("ort", 2.0, 0.3, size_bytes=900),
            row("quick", float("inf"), None, verdict="fail", reason="far " * 70),
        ),
        entry(
            "net-2",
            row("ort", 1.0, 0.2),
            node=1,
            sizes=(TimedSizes(sizes={}, reference="e", can_tell=True, reason=""),),
        ),
        entry(HOSTILE, row(HOSTILE, reason=HOSTILE, verdict="unavailable"), node=None),
        entry("bad", row("ort", 40.0, verdict="fail"), node=None, version="", state="failed", problem="parity failed"),
    )
    return League(schema_version=1, machines=(benchmark.machine, xeon), entries=entries, against=against)


def _fields(machine):
    return {name: getattr(machine, name) for name in machine.__dataclass_fields__}


@pytest.fixture(scope="module")
def file(league, tmp_path_factory):
    file = tmp_path_factory.mktemp("league") / "league.html"
    file.write_text(league_page.render(league), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser(file):
    if reason := chromium.missing():
        pytest.skip(reason)
    with chromium.opened(file) as opened:
        yield opened


@pytest.fixture
def page(browser):
    """The page as it is when it is opened, on a wide screen."""
    browser.resize(1440)
    browser.prefer("light")
    browser.script("document.querySelector('#tools').reset()")
    browser.wait("return document.querySelector('#count').textContent === '8 of 8 rows'")
    return browser


def column(page, heading, table=0):
    """The visible cells of a column of one table, from the top."""
    index = [each.heading for each in COLUMNS].index(heading)
    return page.script(
        f"return [...document.querySelectorAll('.league')[{table}].querySelectorAll('tbody tr')]"
        f".filter(each => each.offsetParent).map(each => each.cells[{index}].textContent)"
    )


def choose(page, label, value):
    page.script(
        "const box = [...document.querySelectorAll('#tools label')].find(each => each.firstChild.textContent === "
        f"'{label}').querySelector('input, select'); box.value = '{value}'; "
        "box.dispatchEvent(new Event('input', {bubbles: true})); box.dispatchEvent(new Event('change', {bubbles: true}));"
    )


def test_a_page_is_one_file_that_asks_for_nothing_and_its_policy_lets_it_ask_for_nothing(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|img|iframe)[^>]*\ssrc=|<link[^>]*href=\"(?!data:)|@import|url\(|https?://", text)
    assert "default-src 'none'" in text
    assert file.stat().st_size < 40_000


def test_what_reports_say_cannot_write_into_the_page_nor_into_markdown(file, league):
    text = file.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("</script>") == 1
    lines = [line for line in league_page.text(league).splitlines() if "alert" in line]
    assert len(lines) == 2
    for line in lines:
        outside = re.sub(r"`[^`]*`", "", line)
        assert not set("<>*[") & set(outside), outside
        cells = re.split(r"(?<!\\)\|", line)
        assert len(cells) in {len(COLUMNS) + 2, 11}


def test_the_markdown_has_every_table_with_its_node(league):
    text = league_page.text(league)
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert [each.partition(" ")[0].strip("`") for each in titles] == ["Against", "Timed", "Timed", "Not"]
    assert (
        "| net-0 | latency [ms] | ort, batch=1 | proven worse | yes | 1 | 1.2 | +20.0% [+15.0%, +25.0%] | 95 %, p 0.001 |"
        in text
    )
    assert "| net-1 | 1.0.0 | onnx | quick | fail | ∞ |" in text
    assert "| bad |  |  |  | no release |" in text


def test_a_column_that_says_nothing_is_not_there(league):
    found = league.model_copy(update={"entries": league.entries[2:3], "against": None})
    headings = re.search(r"^\| model .*$", league_page.text(found), re.MULTILINE)[0]
    assert (
        headings == "| model | version | artifact | backend | verdict | × noise floor | ratio | latency | precision |"
    )
    assert "recommended" not in league_page.render(found)


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_screen_without_an_error(page, width, scheme):
    page.resize(width)
    page.prefer(scheme)
    assert page.script("return document.documentElement.scrollWidth") <= width
    assert page.errors() == []
    assert page.script("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)"
    )


def test_each_kind_of_node_has_a_table_of_its_own(page):
    assert [column(page, "model", table) for table in range(3)] == [
        ["net-0", "net-0", "net-1", "net-1"], ["net-2"], [HOSTILE, "bad", "bad"],
    ]  # fmt: skip


def press(page, heading):
    page.script(
        "const button = [...document.querySelector('.league').querySelectorAll('th button')].find(each => each.textContent === "
        f"'{heading}'); button.focus(); button.click()"
    )


def test_a_click_on_a_heading_sorts_by_numbers_and_another_turns_it(page):
    press(page, "× noise floor")
    assert column(page, "× noise floor") == ["0.5", "2", "10", "∞"]
    states = "return [...document.querySelectorAll('.league')[0].querySelectorAll('th')].map(each => each.ariaSort)"
    assert page.script(states).count("none") == len(COLUMNS) - 1
    press(page, "× noise floor")
    assert column(page, "× noise floor") == ["∞", "10", "2", "0.5"]
    assert "descending" in page.script(states)
    press(page, "size")
    assert column(page, "size") == ["900 B", "2 MB", "", ""]
    press(page, "size")
    assert column(page, "size") == ["2 MB", "900 B", "", ""]  # what is not known stays last


def test_the_keyboard_sorts_and_filters(page):
    page.script(
        "[...document.querySelectorAll('.league th button')].find(each => each.textContent === 'ratio').focus()"
    )
    page.keys("Enter")
    assert column(page, "model") == ["net-1", "net-0", "net-0", "net-1"]
    page.keys("Space")
    assert column(page, "model") == ["net-0", "net-0", "net-1", "net-1"]
    page.script("document.querySelector('#find').focus()")
    page.keys("q", "u", "i", "c", "k")
    assert column(page, "backend") == ["quick"]
    assert page.script("return document.querySelector('#count').textContent") == "1 of 8 rows"
    page.keys("Tab")
    assert page.script("return document.activeElement.parentElement.firstChild.textContent") == "verdict"


def test_filters_are_all_of_them_together_and_hide_tables_without_a_row(page):
    choose(page, "verdict", "fail")
    assert [column(page, "model", table) for table in range(3)] == [["net-1"], [], ["bad"]]
    assert page.script("return [...document.querySelectorAll('.group')].map(each => each.hidden)") == [
        False,
        True,
        False,
    ]
    choose(page, "find", "net ONNX")
    assert [column(page, "model", table) for table in range(3)] == [["net-1"], [], []]
    assert page.script("return document.querySelector('#count').textContent") == "1 of 8 rows"
    choose(page, "backend", "ort")
    assert page.script("return document.querySelector('#count').textContent") == "0 of 8 rows"


def test_on_a_narrow_screen_cells_say_what_they_are_and_sorting_is_there(page):
    page.resize(390)
    label = "return getComputedStyle(document.querySelector('.league td:nth-child(6)'), '::before').content"
    assert page.script(label) == '"× noise floor"'
    choose(page, "sort by", [each.heading for each in COLUMNS].index("× noise floor"))
    assert column(page, "× noise floor") == ["0.5", "2", "10", "∞"]
    page.script("document.querySelector('#turn').click()")
    assert column(page, "× noise floor")[0] == "∞"
    assert page.script("return document.querySelector('#turn').ariaPressed") == "true"


def test_everything_has_a_name_and_can_be_reached(page):
    assert page.script("return document.documentElement.lang") == "en"
    assert page.script("return document.querySelectorAll('h1').length") == 1
    unnamed = (
        "return [...document.querySelectorAll('input, select, button, .table, form')]"
        ".filter(each => !(each.labels?.length || each.ariaLabel || each.textContent.trim())).length"
    )
    assert page.script(unnamed) == 0
    ids = page.script("return [...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
    assert page.script("return [...document.querySelectorAll('th')].every(each => each.scope === 'col')")
    small = (
        "return [...document.querySelectorAll('#tools input, #tools select, #tools button')]"
        ".filter(each => each.getBoundingClientRect().height < 24).length"
    )
    assert page.script(small) == 0


NAMES = ("body", "h1", "th", "label", "td.good", "td.bad", "td.warn")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_readable(page, scheme):
    page.prefer(scheme)
    code = re.sub(r"for \(const name of \[.*?\]\)", f"for (const name of {list(NAMES)})", CONTRAST)
    found = page.script(code)
    assert found.keys() == set(NAMES)
    assert min(found.values()) >= 4.5, found
