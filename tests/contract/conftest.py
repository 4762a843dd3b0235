"""An S3 server of the tests' own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from oprime.runtime.free_ports import reserve_port

NEEDED = ("s3fs", "moto", "flask_cors")


@pytest.fixture(scope="session")
def s3_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bucket on a server that keeps objects in its memory, reached as any S3 is: by address and keys in the environment."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}: install oprime[s3], moto[s3], flask and flask-cors")
    import fsspec

    with reserve_port("127.0.0.1") as keeper:
        port = str(keeper.getsockname()[1])
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port], stdout=output, stderr=output)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(name, value)
        try:
            _wait_for(f"http://127.0.0.1:{port}", server, log)
            fsspec.filesystem("s3").mkdir("oprime-tests")
            yield "s3://oprime-tests"
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(url, timeout=5):  # noqa: S310 - an address of this machine
                return
        except (URLError, OSError):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"no S3 server at {url}: {log.read_text()}"
            time.sleep(0.1)
