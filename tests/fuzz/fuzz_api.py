"""Fuzzes the HTTP API from its own OpenAPI document with Schemathesis: `python tests/fuzz/fuzz_api.py PATH_OF_ST SECONDS`.

The gateway is real; the services behind it answer by a rule. Schemathesis has packages of its own, so it runs as another program.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from gateway_world import live

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)
"""Not whether all that fits the document is accepted: some rules tie fields to each other (one list of spans per input), and JSON Schema
has no words for them."""


async def fuzz(program: str, seconds: int) -> int:
    """Schemathesis' own exit code: 0 where nothing was found."""
    with tempfile.TemporaryDirectory() as folder:
        async with live(Path(folder)) as url:
            words = [f"{url}/openapi.json", "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-time", str(seconds), "--no-color"]
            running = await asyncio.create_subprocess_exec(program, "run", *words, cwd=folder)
            return await running.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(fuzz(sys.argv[1], int(sys.argv[2]))))
