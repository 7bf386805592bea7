"""Words about adapters: cards, fit reports, what a search found, and which of the catalog's are missing."""

from composer.adapters.hub import Found
from composer.adapters.model_card import ModelCard
from composer.core.catalog_types import FitReport
from composer.ui.tabs import adapters as tab

FITS = FitReport("poems", "owner/poems", ok=True, ranks={"q": 8, "v": 4}, bytes=2_500_000)
LOST = FitReport("tales", "owner/tales", ok=False, reasons=("It uses DoRA.", "Train it with plain LoRA."))
CARD = ModelCard("MIT", ("a/b",), "90.0% [80.0%, 95.0%]", "3.0%", "a rhyme")


def test_sizes():
    assert tab.size(FITS) == "rank 4/8 at 2 sites, 2.5 MB"
    assert tab.size(None) == tab.size(LOST) == ""


def test_facts_leave_out_what_is_not_known():
    assert tab.facts("Tiny", FITS, ModelCard()) == [["Base", "Tiny"], ["Size", "rank 4/8 at 2 sites, 2.5 MB"]]
    known = dict(tab.facts("Tiny", FITS, CARD))
    assert known["Control"] == "90.0% [80.0%, 95.0%] of its texts (a rhyme), 3.0% of the base's"
    assert (known["Trained on"], known["Licence"]) == ("a/b", "MIT")


def test_a_card():
    entry = {"name": "poems", "label": "Poems", "color": "#123456"}
    card = tab.card(entry, "Verse.", "Tiny", FITS, CARD, own=True)
    assert card["label"] == "Poems" and card["blurb"] == "Verse." and card["own"] is True


def test_reports():
    assert tab.report_value("Tiny", FITS, CARD)["report"]["add"] is True
    done = tab.report_value("Tiny", FITS, CARD, "It is ready.")["report"]
    assert done["headline"] == "It is ready." and done["add"] is False
    lost = tab.report_value("Tiny", LOST, ModelCard())["report"]
    assert lost["reasons"] == list(LOST.reasons) and "add" not in lost


def test_what_a_search_found():
    shown = tab.found_value([Found("a/b", 1200, 3, "mit", ("x/y",), True)], "pirate", "Tiny")
    assert shown["found"] == [{"id": "a/b", "facts": "1,200 downloads · 3 likes · mit · x/y · gated"}]
    assert shown["message"].startswith("1 adapter for Tiny")
    assert "no adapter for Tiny with 'pirate'" in tab.found_value([], "pirate", "Tiny")["message"]


def test_the_missing_are_named_with_the_reason():
    assert tab.unavailable([FITS, LOST], ["poems"]) == (
        "tales is not available: It uses DoRA. Train it with plain LoRA."
    )
    assert tab.unavailable([FITS], ["poems"]) == ""
