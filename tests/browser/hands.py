"""What a visitor's hands do that more than one test asks for."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe

# The page has the first words of a text that is being written.
WRITING = (
    "(({status, columns}) => status.phase === 'writing' && columns.length >= 2)"
    "(document.querySelector('#live canvas').composer)"
)


def findings(page) -> list[str]:
    """axe-core's serious findings, one line each."""
    results = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary'][:300]}"
        for each in results
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
