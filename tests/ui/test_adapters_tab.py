"""Words about adapters: cards, fit reports, and which of the catalog's are missing."""

from composer.core.catalog_types import AdapterSpec, FitReport
from composer.ui.tabs import adapters as snapshot

FITS = FitReport("poems", "owner/poems", ok=True, ranks={"q": 8, "v": 4}, bytes=2_500_000)
LOST = FitReport("tales", "owner/tales", ok=False, reasons=("It uses DoRA.", "Train it with plain LoRA."))


def test_facts():
    assert snapshot.facts(FITS) == "rank 4/8 at 2 sites, 2.5 MB"
    assert snapshot.facts(None) == snapshot.facts(LOST) == ""


def test_a_card_per_adapter():
    (card,) = snapshot.cards(
        [AdapterSpec("poems", "x", description="Verse.")], {"poems": "#123456"}, {"poems": FITS}
    )
    assert card == {
        "label": "poems",
        "blurb": "Verse.",
        "color": "#123456",
        "facts": "rank 4/8 at 2 sites, 2.5 MB",
    }


def test_reports():
    assert snapshot.report_value(FITS)["ok"] is True
    assert snapshot.report_value(LOST)["reasons"] == list(LOST.reasons)
    assert snapshot.report_value(None, "No.") == {"ok": False, "headline": "No.", "reasons": []}


def test_the_missing_are_named_with_the_reason():
    assert snapshot.unavailable([FITS, LOST], ["poems"]) == (
        "tales is not available: It uses DoRA. Train it with plain LoRA."
    )
    assert snapshot.unavailable([FITS], ["poems"]) == ""


def test_every_value_in_a_template_is_escaped():
    for template in (snapshot.CARDS, snapshot.REPORT):
        assert "${" not in template
        assert "{{{" not in template
