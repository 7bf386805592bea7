"""The page's styles leave alone what others draw on it."""

import re
from pathlib import Path

import gradio

from composer.core.assets import ASSETS

NAME = re.compile(r"\.([a-zA-Z][\w-]*)")


def names(sheet: Path) -> set[str]:
    return set(NAME.findall(re.sub(r"/\*.*?\*/", "", sheet.read_text("utf-8"), flags=re.DOTALL)))


def test_no_class_of_ours_is_one_of_a_formula():
    [katex] = (Path(gradio.__file__).parent / "templates").glob("**/katex-*.css")
    assert {"base", "strut"} <= names(katex)
    ours = {name for sheet in (ASSETS / "ui").glob("*.css") for name in names(sheet)}
    assert "base-choice" in ours and not ours & names(katex)
