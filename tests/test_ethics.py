"""docs/ethics.md names every data set with the licence that the package prints, and readers get there from everywhere."""

import re
from pathlib import Path

from subpop.datasets import DATASETS
from subpop.report import RunInfo
from subpop.report.front_page import front_page
from subpop.report.page import web_page

ROOT = Path(__file__).parents[1]


def test_every_data_set_has_its_licence_and_its_faults():
    text = (ROOT / "docs" / "ethics.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    told = {
        name: (licence.strip(), faults.strip()) for names, licence, faults in rows for name in re.findall(r"`([^`]+)`", names)
    }
    assert {name: licence for name, (licence, _) in told.items()} == {name: each.licence for name, each in DATASETS.items()}
    assert all(len(faults) > 20 for _, faults in told.values())


def test_it_is_linked_from_the_readme_the_documentation_the_report_and_the_page():
    run = RunInfo(tier="embedded", command="python -m pytest benchmarks/")
    assert "[docs/ethics.md](docs/ethics.md)" in (ROOT / "README.md").read_text()
    assert ": ethics.md" in (ROOT / "mkdocs.yml").read_text()
    assert "docs/ethics.md" in front_page([], run)
    assert "docs/ethics.md" in web_page([], run)
