"""Learner and PRM with two ranks each, on two machines that share a network and a file system, compute what one process computes."""

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.conftest import small_run
from e2e.test_services_equal_the_plain_loop import STEPS, Case, assert_same_training, is_saved
from golden.prime_in_one_file import train
from network_namespaces import hosts, needs_hosts
from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_payloads import RedisPayloads
from oprime_cli.files import write_toml
from oprime_cli.overrides import load_config
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices
from oprime_cli.running.launch import free_ports
from oprime_cli.running.run_folder import RunFolder, to_document
from oprime_cli.running.services import service_specs
from oprime_cli.running.supervisor import Guard, ProcessSpec, Supervisor

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), needs_hosts()]

HOSTS = ("machine-0", "machine-1")
PORTS = {"prm": 29500, "learner": 29501}


def test_two_ranks_on_two_machines_make_the_weights_of_one_process(starting_model: Path, tmp_path: Path) -> None:
    case = Case(ranks=2, zero_stage=3)
    # Versions in between travel as what changed.
    _, config, *overrides = small_run(starting_model, tmp_path, "hosts", **case.of_run, **{"store.full_every": STEPS})
    logs = train_on_hosts(load_config(Path(config), [change for change in overrides if change != "--set"]))
    # Each machine had one rank of each.
    for service in PORTS:
        for index in range(2):
            log = (logs / f"{service}-{index}.log").read_text(encoding="utf-8")
            assert f'"ranks": [{index}], "of": 2, "host": {index}, "hosts": 2' in log
            assert '"event": "stopped_cleanly"' in log
    assert (tmp_path / "hosts" / "weights" / "v00000002" / "delta.bin").is_file()
    assert_same_training(tmp_path / "hosts", train(str(starting_model), case.of_loop), case, starting_model)


def train_on_hosts(config: RunConfig) -> Path:
    """What `oprime train` does, with PRM and learner on two machines; returns the folder of the logs.

    Redis listens on a socket file, which all of them see, and nobody calls the two over gRPC.
    """
    folder = RunFolder(config.run.folder)
    folder.logs.mkdir(parents=True)
    with Guard() as guard, hosts(HOSTS) as machines, LocalRedis.start(folder.redis) as redis, free_ports(config.endpoints) as endpoints:
        guard.watch(redis.pid)
        queue = config.queue.model_copy(update={"url": redis.url})
        own = config.model_copy(update={"endpoints": endpoints, "queue": queue})
        write_toml(folder.config, to_document(own))
        # A cache that no other run has touched.
        cache = {"XDG_CACHE_HOME": str(folder.path / "cache")}
        plain_specs = service_specs(own, folder.config, Devices(), serve_only=False)
        specs = {spec.name: replace(spec, env={**spec.env, **cache}) for spec in plain_specs}
        for service, port in PORTS.items():
            plain = specs.pop(service)
            for index, name in enumerate(HOSTS):
                command = machines[name].command(*plain.argv)
                specs[f"{service}-{index}"] = on_host(replace(plain, name=f"{service}-{index}", argv=tuple(command)), index, port)
        payloads = RedisPayloads.connect(redis.url, run=config.run.name)
        with closing(payloads), Supervisor(specs.values(), guard=guard, logs=folder.logs, grace_s=60) as supervisor:
            supervisor.start()
            while not is_saved(folder, config) or any(payloads.names()):
                supervisor.check()
                time.sleep(0.2)
    return folder.logs


def on_host(spec: ProcessSpec, index: int, port: int) -> ProcessSpec:
    where = {"OPRIME_HOSTS": "2", "OPRIME_HOST_INDEX": str(index), "OPRIME_HOST_ADDRESS": f"{HOSTS[0]}:{port}"}
    # `ip netns exec` looks for a command, and needs root's own way to find it.
    return replace(spec, env={**spec.env, **where, "PATH": os.environ["PATH"]}, health=lambda: True)
