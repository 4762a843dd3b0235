"""Installs the built wheel with single extras, each into a fresh environment, and uses it: `python tests/fresh_install.py [EXTRA...]`.

What these extras are for must work without torch. Packages come from the index that pip is set to.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUEST = '{"id": 1, "kind": "math", "response": "So it is \\\\boxed{2/4}.", "ground_truth": "0.5"}'

CHECKS: dict[str, str] = {
    "client": """
import threading, http.server, json
from oprime.client import RewardClient
from oprime.client.shims import prime_rl, skyrl, trl, verl

class Gateway(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        answer = {"data": [{"index": 0, "sequence": {"reward": 0.5}}], "model_revision": "prm@1", "beta": 0.05, "reference_model": "r"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = http.server.HTTPServer(("127.0.0.1", 0), Gateway)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
with RewardClient(url) as client:
    assert client.rewards([{"prompt": "p", "response": "r"}]).items[0].reward == 0.5
import pathlib
from oprime_cli.main import main
pathlib.Path("rows.jsonl").write_text('{"prompt": "p", "response": "r"}')
assert main(["score", "rows.jsonl", "--url", url]) == 0
""",
    "verifier": f"""
import pathlib
from oprime_cli.main import main
if __name__ == "__main__":
    pathlib.Path("rows.jsonl").write_text(r'''{REQUEST}''')
    assert main(["verify", "rows.jsonl", "--out", "out.jsonl", "--jobs", "1"]) == 0
    assert '"CORRECT"' in pathlib.Path("out.jsonl").read_text()
""",
    "gateway": """
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime_gateway import app
from oprime_gateway.api import Gateway, build_api
from oprime_gateway.config import GatewaySettings
from oprime_gateway.services import Services

settings = GatewaySettings.from_document({"run": {"name": "demo", "steps": 1}, "model": {"path": "m"}}, origin="check")
services = Services(channels={}, timeout_s=1)
api = build_api(Gateway(settings=settings, services=services, metrics=PrometheusMetrics(), of_run=PrometheusMetrics))
assert "/v1/rewards" in api.openapi()["paths"]
""",
}
LAST_LINES = """
    import importlib.util
    assert importlib.util.find_spec("torch") is None
"""


def main(extras: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        for extra in extras or CHECKS:
            check(extra, wheel, Path(folder) / extra)
            sys.stdout.write(f"{wheel.name}[{extra}] works without torch\n")
    return 0


def build(folder: Path) -> Path:
    words = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *words], check=True)
    return next(folder.glob("*.whl"))


def check(extra: str, wheel: Path, folder: Path) -> None:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", f"{wheel}[{extra}]"], check=True)
    script = folder / "check.py"
    script.write_text(CHECKS[extra] + 'if __name__ == "__main__":' + LAST_LINES, encoding="utf-8")
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([python, script], cwd=folder, env=bare, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
