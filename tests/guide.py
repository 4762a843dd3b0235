"""The examples of docs/extending.md and docs/exercise.md, saved where the pages say."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"


def example(name: str, page: str = "extending") -> str:
    """The Python block below the paragraph that names the file `NAME.py`."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(rf"`{name}\.py`[^\n]*(?:\n[^\n]+)?\n\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"docs/{page}.md has no example {name}.py"
    return found[1]


@contextmanager
def one_more_file(package: ModuleType, folder: Path, name: str, code: str) -> Iterator[None]:
    """As if `NAME.py` stood in the package, while it lasts."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    package.__path__.append(str(folder))
    try:
        yield
    finally:
        package.__path__.remove(str(folder))
        sys.modules.pop(f"{package.__name__}.{name}", None)


def run_with_files(folders: dict[str, Path], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, in which the files of some folders stand in packages of `oprime.core`."""
    places = {f"oprime.core.{package}": str(folder) for package, folder in folders.items()}
    start = f"import importlib\nfor name, folder in {places!r}.items(): importlib.import_module(name).__path__.append(folder)\n"
    return subprocess.run([sys.executable, "-c", start + code, *arguments], capture_output=True, text=True, check=False)
