"""index.html of a report and of an audit in headless Chromium, opened from disk without a network.

Sorting, filters, deep links, what a number or a group opens, and two widths.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from synthetic_reports import cell_of, report_of

import subpop
from subpop.report import RunInfo, write_report

selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed, which drives the browser")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="Chromium is not installed: apt-get install chromium chromium-driver (Debian)"
)
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
CELLS, LEADERS = "#all tbody tr", "#leaderboard tbody tr"


def reports():
    shared = {"sampling": "distinct", "protocol": "reserve"}
    made = [
        report_of(cell_of(rate=rate, defense=defense, dataset=dataset, **shared))
        for rate in (0.5, 1.0, 2.0)
        for defense in ("none", "perfect_filter", "random_filter", "sever", "trim")
        for dataset in ("digits", "mixture")
    ]
    hostile = [report_of(cell_of(rate=rate, defense=HOSTILE, **shared), left=0.5, cost=0.01) for rate in (0.5, 1.0, 2.0)]
    for report in hostile:
        report.result.table[0]["subpopulation"] = HOSTILE
    return [*made, *hostile]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(reports(), folder, RunInfo(tier="embedded", command="python -m pytest benchmarks/"))
    only = tmp_path_factory.mktemp("alone") / "index.html"  # without the other files of the report
    only.write_bytes((folder / "index.html").read_bytes())
    return only.as_uri()


@pytest.fixture(scope="module")
def browser():
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",  # CI runs as root
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--proxy-server=127.0.0.1:9",
        "--force-device-scale-factor=1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    started.set_page_load_timeout(30)
    yield started
    started.quit()


def opening(browser, address, title):
    """Yields a function that opens a page afresh at some fragment; afterwards nothing may be on the console."""

    def at(fragment="", width=1280, height=900):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        browser.get("about:blank")
        browser.get(address + (f"#{fragment}" if fragment else ""))
        assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
        return browser

    yield at
    assert browser.get_log("browser") == []
    assert browser.title == title


@pytest.fixture
def opened(browser, address):
    yield from opening(browser, address, "subpop: embedded tier")


def shown(browser, column, table="all"):
    """The texts of a column, on the table's page that is shown."""
    script = """
        const table = document.getElementById(arguments[1]);
        const place = [...table.tHead.rows[0].cells].findIndex((each) => each.dataset.name === arguments[0]);
        return [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
    """
    return browser.execute_script(script, column, table)


def scroll_to(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)


def click(browser, selector):
    scroll_to(browser, selector)
    browser.find_element("css selector", selector).click()


def sort(browser, column, direction, table="all"):
    heading = f"#{table} th[data-name='{column}']"
    click(browser, heading)
    script = "return document.querySelector(arguments[0]).ariaSort"
    WebDriverWait(browser, 10, 0.05).until(lambda _: browser.execute_script(script, heading) == direction)


def fragment(browser):
    return browser.execute_script("return location.hash")


def choose(browser, column, value, table="all"):
    script = """
        const select = document.querySelector(`select[data-table="${arguments[2]}"][data-column="${arguments[0]}"]`);
        select.value = arguments[1];
        select.dispatchEvent(new Event("change"));
    """
    browser.execute_script(script, column, value, table)


def test_sorting(opened):
    browser = opened()
    sort(browser, "damage in %", "ascending")
    ascending = [float(text.partition(" ")[0]) for text in shown(browser, "damage in %")]
    assert ascending == sorted(ascending)
    sort(browser, "damage in %", "descending")
    descending = [float(text.partition(" ")[0]) for text in shown(browser, "damage in %")]
    assert descending == sorted(descending, reverse=True)
    assert descending[0] > ascending[0]
    assert "all.sort=desc+damage" in fragment(browser)


def test_filters_and_search(opened):
    browser = opened()
    choose(browser, "data set", "mixture")
    choose(browser, "alpha", "2")
    assert set(shown(browser, "data set")) == {"mixture"}
    assert set(shown(browser, "alpha")) == {"2"}
    assert sorted(shown(browser, "defense")) == ["none", "perfect_filter", "random_filter", "sever", "trim"]
    browser.find_element("css selector", "#all_wrapper input[type=search]").send_keys("trim")
    assert shown(browser, "defense") == ["trim"]
    assert "all.search=trim" in fragment(browser)
    choose(browser, "data set", "")
    assert sorted(shown(browser, "data set")) == ["digits", "mixture"]


def test_the_leaderboard_opens_the_subpopulations_of_all_its_cells(opened):
    browser = opened()
    defenses = shown(browser, "defense", "leaderboard")
    assert defenses.index("sever") < defenses.index("trim") < defenses.index("none")
    sort(browser, "defense", "ascending", "leaderboard")
    sort(browser, "defense", "descending", "leaderboard")
    assert shown(browser, "defense", "leaderboard")[0] == "trim"
    click(browser, f"{LEADERS}:first-child button")
    assert browser.find_element("id", "title").text == "trim"
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#subpopulations tbody tr')].map(r => r.cells[0].textContent)"
    )
    assert len(rows) == 40
    assert {name.partition(" · ")[0] for name in rows} == {"digits", "mixture"}
    link = fragment(browser)
    again = opened(link.removeprefix("#"))
    assert again.find_element("id", "title").text == "trim"
    assert shown(again, "defense", "leaderboard")[0] == "trim"
    assert fragment(again) == link


def test_a_click_opens_the_subpopulations_of_a_number(opened):
    browser = opened("all.alpha=1&all.data+set=digits&all.search=trim")
    (damage,) = shown(browser, "damage in %")
    click(browser, f"{CELLS} button")
    dialog = browser.find_element("css selector", "dialog")
    assert dialog.is_displayed()
    assert browser.find_element("id", "title").text == "trim, alpha 1"
    assert damage in browser.find_element("id", "text").text
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#subpopulations tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    table = reports()
    trim = next(r for r in table if (r.cell.defense, r.cell.rate, r.cell.dataset) == ("trim", 1.0, "digits")).result.table
    none = next(r for r in table if (r.cell.defense, r.cell.rate, r.cell.dataset) == ("none", 1.0, "digits")).result.table
    worst = max(range(20), key=lambda i: trim[i]["target_damage"])
    assert len(rows) == 20
    assert rows[0][0] == trim[worst]["subpopulation"]
    assert rows[0][1] == f"{100 * trim[worst]['target_damage']:.1f} ± {100 * trim[worst]['target_damage_half_width']:.1f}"
    assert rows[0][2] == f"{100 * none[worst]['target_damage']:.1f}"
    click(browser, "#close")
    assert not dialog.is_displayed()
    assert "open=" not in fragment(browser)


def test_the_address_restores_filter_sort_and_the_opened_cell(opened):
    browser = opened()
    choose(browser, "data set", "digits")
    choose(browser, "role", "control")
    sort(browser, "damage in %", "ascending")
    click(browser, f"{CELLS}:nth-child(2) button")
    rows, title, link = shown(browser, "damage in %"), browser.find_element("id", "title").text, fragment(browser)
    again = opened(link.removeprefix("#"))
    assert shown(again, "damage in %") == rows
    assert set(shown(again, "role")) == {"control"}
    assert again.find_element("css selector", "dialog").is_displayed()
    assert again.find_element("id", "title").text == title
    assert fragment(again) == link
    opened(link.removeprefix("#").partition("&open=")[0])
    click(again, f"{CELLS}:nth-child(2) button")
    again.back()
    assert not again.find_element("css selector", "dialog").is_displayed()


def test_an_address_that_names_nothing_shows_everything(opened):
    everything = len(shown(opened(), "defense"))
    browser = opened(f"all.data+set={quote(HOSTILE)}&all.sort=sideways+defense&all.sort=asc+nothing&open=constructor&x=1")
    assert len(shown(browser, "defense")) == everything
    assert not browser.find_element("css selector", "dialog").is_displayed()
    assert fragment(browser) in ("", "#")


def test_a_hostile_name_is_text(opened):
    browser = opened("all.alpha=1&all.search=onerror")
    assert shown(browser, "defense") == [HOSTILE]
    click(browser, f"{CELLS} button")
    assert browser.find_element("id", "title").text == f"{HOSTILE}, alpha 1"
    assert HOSTILE in browser.find_element("id", "subpopulations").text
    assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_screens(opened, width):
    """The page is as wide as the screen; wide tables scroll inside it. SCREENSHOTS=<folder> keeps what it looks like."""
    browser = opened(width=width, height=844)
    wide = "return document.documentElement.scrollWidth"
    assert browser.execute_script(wide) <= width
    folder = os.environ.get("SCREENSHOTS", "")
    for name, selector in {"top": "h1", "cells": CELLS, "figures": "figure"}.items():
        scroll_to(browser, selector)
        if folder:
            browser.save_screenshot(f"{folder}/{name}-{width}.png")
    click(browser, f"{LEADERS} button")
    assert browser.execute_script(wide) <= width
    if folder:
        browser.save_screenshot(f"{folder}/detail-{width}.png")


def test_nothing_is_loaded_from_elsewhere(opened):
    names = opened().execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in names if not name.startswith("data:")] == []


# --- the page of an audit ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit with a hostile name, long names of pairs, and groups that were left for lack of time; and its address."""
    generator = np.random.default_rng(0)
    town = generator.choice(["north of the long river", "a town with a rather long name", HOSTILE], 600, p=[0.5, 0.3, 0.2])
    work = generator.choice(["in an office all day", "in the open air, mostly", "never"], 600)
    age = generator.normal(40, 9, 600)
    paid = age + 3 * generator.normal(size=600) > 40
    found = subpop.audit(pd.DataFrame({"town": town, "work": work, "age": age, "paid": paid}), "paid", store=":memory:")
    groups = found.groups.copy()
    groups.loc[groups["damage_1"].isna(), "seconds_left"] = 4000.0
    groups.loc[0, ["m50", "m50_is_more", "damage_1", "half_width_1"]] = 123456.0, 1.0, -0.123, 0.987
    folder = tmp_path_factory.mktemp("audit")
    found = replace(found, groups=groups)
    found.save(folder)
    only = tmp_path_factory.mktemp("audit_alone") / "index.html"
    only.write_bytes((folder / "index.html").read_bytes())
    return found, only.as_uri()


@pytest.fixture
def opened_audit(browser, audited):
    yield from opening(browser, audited[1], "subpop: audit of frame")


def numbers(texts):
    return [float(text.replace(",", "").partition(" ")[0]) for text in texts if text != "–"]


def test_the_groups_of_an_audit_are_sorted_and_filtered(opened_audit, audited):
    browser, groups = opened_audit(), audited[0].groups
    damages = numbers(shown(browser, "damage in points, alpha 1", "groups"))
    assert damages == sorted(damages, reverse=True)
    assert len(damages) == groups["damage_1"].notna().sum() > 3
    sort(browser, "rows", "ascending", "groups")
    rows = numbers(shown(browser, "rows", "groups"))
    assert rows == sorted(groups["rows"])
    choose(browser, "by", "town", "groups")
    assert len(shown(browser, "group", "groups")) == 3
    assert "groups.by=town" in fragment(browser)
    browser.find_element("css selector", "#groups_wrapper input[type=search]").send_keys("onerror")
    assert shown(browser, "group", "groups") == [f"town={HOSTILE}"]


def test_a_group_opens_all_its_numbers(opened_audit, audited):
    groups = audited[0].groups
    browser = opened_audit("groups.by=town+x+work&groups.sort=desc+rows")
    name = shown(browser, "group", "groups")[0]
    click(browser, "#groups tbody button")
    assert browser.find_element("id", "title").text == name
    lines = browser.execute_script(
        "return [...document.querySelectorAll('#subpopulations tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    own = groups.set_index("group").loc[name]
    told = dict(lines)
    assert len(lines) == len(groups.columns) - 2
    assert told["number of its rows"] == f"{own['rows']}"
    assert told["accuracy lost at alpha 1"] == f"{100 * own['damage_1']:.1f} %"
    assert told["mislabelled rows at alpha 2"] == f"{own['poison_rows_2']:.0f}"
    assert told["share of its rows that knn_filter deletes of a training set"] == f"{100 * own['deleted_knn_filter']:.1f} %"
    again = opened_audit(fragment(browser).removeprefix("#"))
    assert again.find_element("id", "title").text == name
    click(again, "#close")
    assert not again.find_element("css selector", "dialog").is_displayed()


def test_an_address_cannot_open_the_names_of_the_numbers(opened_audit):
    assert not opened_audit("open=columns").find_element("css selector", "dialog").is_displayed()


@pytest.mark.parametrize("width", [1280, 390])
def test_screens_of_an_audit(opened_audit, width):
    """At 1280 px all columns are in sight; at 390 px the last one is reached by scrolling the table, not the page."""
    browser = opened_audit(width=width, height=844)
    wide = "return document.documentElement.scrollWidth"
    assert browser.execute_script(wide) <= width
    edges = """
        const cell = document.querySelector(`#${arguments[0]} thead th:last-child`);
        if (arguments[1]) cell.scrollIntoView({inline: "end"});
        return [cell.getBoundingClientRect().right, document.querySelector("main").getBoundingClientRect().right];
    """
    for table in ("groups", "filters", "fairness"):
        right, end = browser.execute_script(edges, table, width < 500)
        assert right <= end + 1, f"the last column of {table} ends at {right} px, the page at {end} px"
    browser.execute_script("scrollTo(0, 0)")
    browser.execute_script("document.querySelector('#groups tbody button').click()")
    assert browser.execute_script(wide) <= width
    rest = "const box = document.querySelector('dialog'); return box.scrollWidth - box.clientWidth"
    assert browser.execute_script(rest) <= 0
    folder = os.environ.get("SCREENSHOTS", "")
    if folder:
        browser.save_screenshot(f"{folder}/audit-group-{width}.png")
