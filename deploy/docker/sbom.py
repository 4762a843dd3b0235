"""The software in an image, as CycloneDX JSON on standard output: `python sbom.py`. Debian's packages and Python's; needs no network."""

import json
import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

DPKG = Path("/var/lib/dpkg/status")


def of_python() -> Iterator[dict[str, Any]]:
    for found in {item.metadata["Name"]: item for item in distributions()}.values():
        fields = found.metadata
        name = fields["Name"].lower().replace("_", "-")
        licence = fields["License-Expression"] or fields["License"] or ""
        # Some put the whole text there.
        licences = [{"license": {"name": licence}}] if 0 < len(licence) < 80 else []
        purl = f"pkg:pypi/{name}@{found.version}"
        yield {"type": "library", "name": name, "version": found.version, "purl": purl, "licenses": licences}


def of_debian() -> Iterator[dict[str, Any]]:
    for paragraph in DPKG.read_text(encoding="utf-8").split("\n\n") if DPKG.exists() else []:
        fields = HeaderParser().parsestr(paragraph)
        if "installed" not in fields.get("Status", ""):
            continue
        name, version = fields["Package"], fields["Version"]
        yield {"type": "library", "name": name, "version": version, "purl": f"pkg:deb/debian/{name}@{version}"}


if __name__ == "__main__":
    components = sorted([*of_debian(), *of_python()], key=lambda part: part["purl"])
    json.dump({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}, sys.stdout, indent=1)
