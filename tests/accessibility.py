"""What axe-core finds wrong with a page that a browser shows."""

import json
from pathlib import Path
from typing import Any

import pytest

axe_package = pytest.importorskip("axe_playwright_python", reason="the package axe-playwright-python is not installed")

AXE = (Path(axe_package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def axe_violations(page: Any) -> list[str]:
    """axe-core's findings. Evaluated from outside, so the page's policy need not allow it."""
    session = page.context.new_cdp_session(page)
    call = f"{AXE};axe.run(document).then(found => JSON.stringify(found.violations.map(one => [one.id, one.nodes.map(node => node.html)])))"
    answer = session.send("Runtime.evaluate", {"expression": call, "awaitPromise": True, "returnByValue": True})
    assert "exceptionDetails" not in answer, answer
    return [f"{rule}: {nodes[:3]}" for rule, nodes in json.loads(answer["result"]["value"])]
