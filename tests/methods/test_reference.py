"""docs/methods.md is what the command writes."""

from __future__ import annotations

from composer.cli.main import main
from composer.core.assets import ROOT
from composer.core.composition import Composition
from composer.core.parameters import parameters_of
from composer.methods import METHODS


def test_the_reference_is_up_to_date_and_names_everything(capsys):
    assert main(["methods"]) == 0
    written = capsys.readouterr().out
    assert written == (ROOT / "docs/methods.md").read_text("utf-8")
    for method in METHODS.values():
        assert f"(`{method.name}`)" in written and method.formula in written and method.source in written
    assert all(f"| `{name}` |" in written for name in parameters_of(Composition))
