"""Where the files are that come with the project: catalog, adapters, judges, prompts, study, page."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries the files inside the package; a checkout has them beside it.
ROOT = _PACKAGE / "bundled" if (_PACKAGE / "bundled").is_dir() else _PACKAGE.parent
ASSETS = ROOT / "assets"
CATALOG = "adapters.yaml"


def catalog_file(path: str | Path) -> Path:
    """The catalog's file: the bundled one where the default name is given and no such file is there."""
    given = Path(path)
    return ROOT / CATALOG if str(path) == CATALOG and not given.exists() else given
