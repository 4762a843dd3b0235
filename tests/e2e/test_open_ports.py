"""What a service listens on besides its own port: nothing that another machine reaches."""

import json
import subprocess
import sys

import pytest

from network_namespaces import hosts, needs_hosts

pytestmark = [pytest.mark.e2e, needs_hosts()]

MEET = """
import json, psutil
from oprime.adapters.rank_group import RankGroup
group = RankGroup(on_gpu=False)
print(json.dumps([found.laddr.ip for found in psutil.Process().net_connections() if found.status == "LISTEN"]))
"""


def test_the_only_rank_of_a_service_listens_on_loopback_alone() -> None:
    # On the host this machine's name leads to an address that others reach, as it does in a container.
    with hosts(["trainer"]) as made:
        said = subprocess.run(made["trainer"].command(sys.executable, "-c", MEET), capture_output=True, text=True, check=True).stdout
    assert set(json.loads(said.splitlines()[-1])) == {"127.0.0.1"}
