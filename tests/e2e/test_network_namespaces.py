"""Hosts in network namespaces are what other tests take them for."""

import subprocess
import sys

import pytest

from network_namespaces import Host, hosts, needs_hosts

pytestmark = [pytest.mark.e2e, needs_hosts(cutting=True)]

LISTEN = "import socket; s = socket.create_server(('', 7000)); print('ready', flush=True)\nwhile True: s.accept()[0].sendall(b'hello')"
CALL = "import socket, sys; s = socket.create_connection((sys.argv[1], 7000), timeout=0.5); print(s.recv(5).decode())"
RESOLVE = "import socket, sys; print(*sorted({row[4][0] for row in socket.getaddrinfo(sys.argv[1], 1, socket.AF_INET)}))"


def said(host: Host, code: str, *words: str) -> str:
    result = subprocess.run(host.command(sys.executable, "-c", code, *words), capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def test_hosts_reach_each_other_by_name_unless_one_is_cut_off() -> None:
    with hosts(["left", "right"], also_known_as={"both": ["left", "right"]}) as made:
        left, right = made["left"], made["right"]
        assert said(left, RESOLVE, "both") == f"{left.address} {right.address}"
        with subprocess.Popen(right.command(sys.executable, "-c", LISTEN), stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
                assert said(left, CALL, "right") == "hello"
                with right.cut_off():
                    assert "timed out" in said(left, CALL, "right")
                    assert said(right, CALL, "127.0.0.1") == "hello"
                assert said(left, CALL, "right") == "hello"
            finally:
                server.kill()
        assert "hello" not in said(left, CALL, "127.0.0.1")
