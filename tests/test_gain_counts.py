"""The README's figures about optimised poison follow from the baselines."""

from pathlib import Path

from gain_counts import gain_counts

README = " ".join((Path(__file__).parents[1] / "README.md").read_text().split())


def test_the_readme_counts_as_the_baselines_do():
    counts = gain_counts()
    everything, faces, adult = (counts.loc[name] for name in ("all", "utkface_mobilenet", "adult"))
    assert f"in {everything.above} of {everything.cells} cells" in README
    negative = faces.cells - faces.above
    assert (
        f"on UTKFace in practice never ({negative} of {faces.cells} gains are negative, the other is {faces.largest:.2%}".replace(
            "%", " %"
        )
        in README
    )
    assert adult["of"].startswith("influence, alpha 0.5, no epsilon")
    assert f"with the *large* box (influence without `epsilon`, alpha 0.5: {100 * adult.largest:.1f} %)" in README


def test_every_cell_is_counted_once():
    counts = gain_counts()
    assert counts.cells.iloc[1:].sum() == counts.cells["all"]
    assert counts.above.iloc[1:].sum() == counts.above["all"]
