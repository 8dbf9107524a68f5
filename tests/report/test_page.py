"""index.html without a browser: escaping, size, what it contains, what is refused."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_reports import cell_of, report_of, run_of_everything

import subpop.report
from subpop.report import RunInfo, check_report_directory, write_report, write_unfinished
from subpop.report.page import COLUMNS, web_page
from subpop.types import BadInput, CellReport

RUN = RunInfo(tier="embedded", command="python -m pytest benchmarks/")
OWN = Path(subpop.report.__file__).parent
HOSTILE = "<script>alert('x')</script> \"quoted\" & </td> </script>"


class Reader(HTMLParser):
    """Rows of the table `board` as texts, scripts by their type, and the tags that occur."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.scripts, self.tags, self._script, self._in_cell = [], {}, [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        elif tag == "script":
            self._script = dict(attributes).get("type", "")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False
        elif tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif self._in_cell:
            self.rows[-1][-1] += data


def test_a_row_has_the_numbers_of_its_cell():
    reports = [report_of(cell_of(defense=defense)) for defense in ("none", "trim")]
    heading, *rows = Reader(web_page(reports, RUN)).rows
    assert tuple(heading) == COLUMNS
    row = dict(zip(COLUMNS, next(row for row in rows if row[0] == "trim"), strict=True))
    result = reports[1].result
    assert row["damage in %"] == f"{100 * result['target_damage_worst_5']:.1f} ± {3 / 5**0.5:.1f}"
    assert row["clean accuracy given up in %"] == "1.2"
    assert row["recall in %"] == "18.0"
    assert row["knowledge"] == "n_poison"
    assert row["attack"] == "label_flip"


def test_a_cell_that_failed_says_so():
    broken = CellReport(cell_of(defense="hangs"), None, status="error", reason="no answer")
    _, *rows = Reader(web_page([report_of(cell_of(defense="none")), broken], RUN)).rows
    assert [row[1] for row in rows if row[0] == "hangs"] == ["error"]


def test_no_text_from_data_becomes_markup():
    reports = [report_of(cell_of(defense=name)) for name in ("none", HOSTILE)]
    page = Reader(web_page(reports, RunInfo(tier=HOSTILE, command=HOSTILE)))
    plain = Reader(web_page([report_of(cell_of(defense=name)) for name in ("none", "plain")], RUN))
    assert page.tags == plain.tags
    assert HOSTILE in [row[0] for row in page.rows]
    cells = json.loads(page.scripts["application/json"])
    assert [cell["title"] for name, cell in cells.items() if "script" in name] == [f"{HOSTILE}, alpha 1"]


def test_the_same_reports_give_the_same_page():
    assert web_page(run_of_everything()[:40], RUN) == web_page(run_of_everything()[:40], RUN)


def test_size_and_own_lines(tmp_path):
    write_report(run_of_everything(), tmp_path, RUN)
    assert (tmp_path / "index.html").stat().st_size <= 5_000_000
    program = (OWN / "page.js").read_text().splitlines()
    assert len(program) <= 200
    assert max(map(len, program)) <= 150


def test_nothing_is_loaded():
    text = web_page([report_of(cell_of(defense=name)) for name in ("none", "trim")], RUN)
    assert "default-src 'none'" in text
    assert not re.search(r"""\b(?:src|href)=["'](?!data:)""", text.partition("<script")[0])
    assert not re.search(r"@import|url\((?!['\"]?data:)", text)


def test_without_defenses_the_page_says_so():
    text = web_page([], RUN)
    assert "No damage of a defense was measured" in text
    assert '<table id="board"' not in text


def test_an_unfinished_run_has_no_page_and_other_files_are_kept(tmp_path):
    reports = [report_of(cell_of(defense="none"))]
    write_report(reports, tmp_path, RUN)
    assert (tmp_path / "index.html").exists()
    write_unfinished(reports, tmp_path, RUN)
    assert not (tmp_path / "index.html").exists()
    (tmp_path / "index.html").write_text("<h1>My own page</h1>")
    with pytest.raises(BadInput, match=r"index\.html is not a report of this program"):
        check_report_directory(tmp_path)
