"""`oprime k8s`: settings that hold in a cluster, what follows from them, and what is refused."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from named_runs import NAMED_RUNS
from oprime.adapters.redis_access import SERVICES
from oprime_cli.kubernetes.cluster_settings import in_cluster, to_document
from oprime_cli.kubernetes.overlays import TREE, features, write_overlay
from oprime_cli.kubernetes.pods import cores, memory
from oprime_cli.kubernetes.run_component import run_files
from oprime_cli.kubernetes.secrets import new_secrets
from oprime_cli.main import main
from oprime_cli.run_config import RunConfig
from oprime_cli.running.failures import PlanRefusedError, UsageError

MakeConfig = Callable[..., RunConfig]


def pods_of(config: RunConfig, *parts: str) -> dict[str, dict[str, Any]]:
    """Patches of pods by name, for an overlay of these components."""
    return {patch["metadata"]["name"]: patch["spec"] for patch in yaml.safe_load_all(run_files(config, parts)["pods.yaml"])}


def container_of(patch: dict[str, Any]) -> dict[str, Any]:
    return patch["template"]["spec"]["containers"][0]


# Settings in the cluster


@pytest.mark.parametrize("path", NAMED_RUNS, ids=lambda path: path.stem)
def test_every_named_run_holds_in_a_cluster_and_nothing_of_it_is_lost(path: Path) -> None:
    config = RunConfig.load(path)
    settled = in_cluster(config, tls=False)
    assert settled.contradictions() == []
    read = RunConfig.from_document(tomllib.loads(run_files(config, ())["run.toml"]), origin="run.toml")
    assert read.model_copy(update={"kubernetes": settled.kubernetes, "run": settled.run}) == settled
    assert read.run == settled.run.model_copy(update={"when_finished": "exit"})
    untouched = ("sampling", "algorithm", "staleness", "coordinator", "learner", "prm", "verifier")
    assert [name for name in untouched if getattr(settled, name) != getattr(config, name)] == []


def test_the_cluster_decides_addresses_and_places_and_the_settings_keep_their_ports(make_config: MakeConfig) -> None:
    given = make_config(
        "endpoints.generator=127.0.0.1:7001", "run.directory=runs", "model.path=Owner/name", "prm.initial_model=models/prm/1"
    )
    settled = in_cluster(given, tls=False)
    assert (settled.endpoints.generator, settled.endpoints.verifier) == ("generator:7001", "verifier:50053")
    assert (settled.endpoints.bind, settled.endpoints.metrics_port) == ("0.0.0.0", 9464)  # noqa: S104
    assert (settled.queue.url, str(settled.queue.password_file)) == ("redis://redis:6379/0", "/run/secrets/redis/{service}")
    assert str(settled.run.folder) == "/var/lib/oprime/runs/one"
    assert (settled.model.path, settled.prm.initial_model) == ("Owner/name", "/var/lib/oprime/models/prm/1")
    assert (settled.queue.username, settled.endpoints.insecure) == ("{service}", True)
    encrypted = in_cluster(given, tls=True)
    assert (encrypted.queue.url, encrypted.endpoints.insecure) == ("rediss://redis:6379/0", False)
    assert {str(path) for path in encrypted.endpoints.tls.files.values()} == {
        f"/run/secrets/tls/{name}" for name in ("tls.crt", "tls.key", "ca.crt")
    }
    assert encrypted.queue.tls == encrypted.endpoints.tls


def test_a_hub_id_is_one_also_beside_a_folder_of_that_name(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert in_cluster(make_config("model.path=Owner/name"), tls=False).model.path == "Owner/name"


def test_sizes_are_no_part_of_the_settings_that_pods_read(make_config: MakeConfig) -> None:
    # Else one more generator would restart the learner.
    small, large = make_config(), make_config("kubernetes.replicas.generator=3", "kubernetes.cores.learner=8")
    assert run_files(small, ())["run.toml"] == run_files(large, ())["run.toml"]
    assert "kubernetes" not in to_document(large, "exit")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "endpoints.prm=10.0.0.7:5000",
            "endpoints.prm = '10.0.0.7:5000': in the cluster it is the Service prm; write prm:5000, or leave it out",
        ),
        ("queue.url=redis://elsewhere:6379/0", "in the cluster it is the run's own Redis; write redis://redis:6379/0, or leave it out"),
        (
            "payloads.store=/data/payloads",
            "payloads.store = '/data/payloads': verifiers mount no volume; write redis, or a URL such as s3://",
        ),
    ],
)
def test_settings_that_cannot_hold_in_a_cluster_are_refused(make_config: MakeConfig, override: str, words: str) -> None:
    with pytest.raises(PlanRefusedError) as refused:
        in_cluster(make_config(override), tls=False)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["learner.ranks=3", "kubernetes.hosts.learner=2"], "learner.ranks = 3 is not a multiple of kubernetes.hosts.learner = 2"),
        (
            ["generator.tensor_parallel=3", "kubernetes.hosts.generator=2"],
            "generator.tensor_parallel = 3 is not a multiple of kubernetes.hosts.generator = 2: every host takes equally many ranks; set "
            "kubernetes.hosts.generator=1 or generator.tensor_parallel=4",
        ),
        (
            ["generator.tensor_parallel=2", "generator.backend=transformers", "kubernetes.hosts.generator=2"],
            'kubernetes.hosts.generator = 2 with generator.backend = "transformers": only vllm spreads a model over hosts',
        ),
        (["kubernetes.replicas.verifier=20"], "kubernetes.most_replicas.verifier = 16 is below kubernetes.replicas.verifier = 20"),
        (["kubernetes.shared_memory_gib=4"], "kubernetes.shared_memory_gib = 4 leaves nothing of kubernetes.memory_gib.generator = 4"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(make_config: MakeConfig, overrides: list[str], words: str) -> None:
    with pytest.raises(PlanRefusedError) as refused:
        in_cluster(make_config(*overrides), tls=False)
    assert words in str(refused.value)


# What follows from them


def test_ports_of_pods_services_and_probes_follow_from_one_setting(make_config: MakeConfig) -> None:
    config = make_config("endpoints.learner=learner:7005", "endpoints.metrics_port=7464")
    container = container_of(pods_of(config)["learner"])
    assert container["ports"] == [{"name": "grpc", "containerPort": 7005}, {"name": "metrics", "containerPort": 7464}]
    assert container["readinessProbe"] == container["startupProbe"] == {"grpc": {"port": 7005}}
    services = {patch["metadata"]["name"]: patch["spec"] for patch in yaml.safe_load_all(run_files(config, ())["services.yaml"])}
    assert services["learner"]["ports"] == [{"name": "grpc", "port": 7005, "targetPort": "grpc"}]


def test_ranks_are_spread_over_hosts_with_their_gpus(make_config: MakeConfig) -> None:
    config = make_config("learner.ranks=8", "kubernetes.hosts.learner=2", "kubernetes.cores.learner=32", "generator.tensor_parallel=2")
    learner = pods_of(config, "gpu")["learner"]
    assert (learner["completions"], learner["parallelism"]) == (2, 2)
    container = container_of(learner)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"] == "4"
    # 32 cores for 4 ranks.
    assert container["env"] == [{"name": "OMP_NUM_THREADS", "value": "8"}, {"name": "OPRIME_HOSTS", "value": "2"}]
    assert container_of(pods_of(config, "gpu")["generator"])["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in container_of(pods_of(config)["learner"])["resources"]["limits"]
    on_cpu = make_config("learner.ranks=8", "learner.device=cpu")
    assert "nvidia.com/gpu" not in container_of(pods_of(on_cpu, "gpu")["learner"])["resources"]["limits"]


def test_a_generator_over_hosts_needs_what_makes_groups_of_pods(make_config: MakeConfig) -> None:
    config = make_config("generator.tensor_parallel=4", "kubernetes.hosts.generator=2", "kubernetes.cores.generator=8")
    with pytest.raises(PlanRefusedError, match=r"kubernetes.hosts.generator = 2 needs an overlay with the component leader-worker-set"):
        run_files(config, ())
    container = container_of(pods_of(config, "gpu", "leader-worker-set")["generator"])
    assert container["env"] == [{"name": "OMP_NUM_THREADS", "value": "8"}, {"name": "OPRIME_HOSTS", "value": "2"}]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    # The other hosts serve no gRPC.
    assert container["readinessProbe"] == {"httpGet": {"path": "/readyz", "port": "metrics"}}


def test_only_host_0_is_asked_for_its_health(make_config: MakeConfig) -> None:
    container = container_of(pods_of(make_config("prm.ranks=2", "kubernetes.hosts.prm=2"))["prm"])
    for probe, path in (("startupProbe", "readyz"), ("readinessProbe", "readyz"), ("livenessProbe", "healthz")):
        *_, code = container[probe]["exec"]["command"]
        assert f"http://127.0.0.1:9464/{path}" in code
        assert 'os.environ["OPRIME_HOST_INDEX"] != "0" or ' in code
    # The base asks over HTTP, and a probe asks in one way.
    assert container["livenessProbe"]["httpGet"] is None


def test_where_keda_scales_the_manifests_name_no_number(make_config: MakeConfig) -> None:
    config = make_config("kubernetes.replicas.generator=3", "kubernetes.replicas.gateway=2")
    assert pods_of(config)["generator"]["replicas"] == 3
    scaled = pods_of(config, "keda")
    assert "replicas" not in scaled["generator"]
    assert scaled["gateway"]["replicas"] == 2
    generator, _ = yaml.safe_load_all(run_files(config, {"keda"})["scaling.yaml"])
    assert (generator["spec"]["minReplicaCount"], generator["spec"]["maxReplicaCount"]) == (3, 4)


def test_redis_takes_three_quarters_of_its_memory(make_config: MakeConfig) -> None:
    redis = container_of(pods_of(make_config("kubernetes.memory_gib.redis=4"))["redis"])
    assert redis["args"] == ["--maxmemory", str(3 * 2**30)]
    assert redis["resources"]["limits"]["memory"] == "4Gi"


def test_quantities_are_whole_numbers_of_some_unit() -> None:
    assert [cores(number) for number in (2.0, 0.1, 1.5)] == ["2", "100m", "1500m"]
    assert [memory(gib) for gib in (8.0, 0.5, 1.25)] == ["8Gi", "512Mi", "1280Mi"]


def test_a_run_without_process_rewards_has_no_prm(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("algorithm.process_weight=0")
    assert "prm" not in pods_of(config)
    write_overlay(config, "local", tmp_path / "out")
    kustomization = yaml.safe_load((tmp_path / "out/kustomization.yaml").read_text(encoding="utf-8"))
    assert kustomization["patches"][-1]["target"] == {"labelSelector": "app.kubernetes.io/name=prm"}


# Secrets


def test_secrets_are_new_each_time_and_redis_has_only_their_hashes(make_config: MakeConfig) -> None:
    config = make_config("kubernetes.namespace=team")
    users, passwords, keys = yaml.safe_load_all(new_secrets(config))
    assert {manifest["metadata"]["namespace"] for manifest in (users, passwords, keys)} == {"team"}
    assert set(passwords["stringData"]) >= set(SERVICES)
    assert not [
        value for name, value in passwords["stringData"].items() if name != "scaler-name" and value in users["stringData"]["users.acl"]
    ]
    assert new_secrets(config) != new_secrets(config)


# The command


def test_an_overlay_is_written_for_another_folder_and_written_over_later(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_overlay(make_config("kubernetes.namespace=one"), "large", folder)
    assert (folder / "run/scaling.yaml").is_file()
    write_overlay(make_config("kubernetes.namespace=two"), "local", folder)
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert kustomization["namespace"] == "two"
    assert (folder / kustomization["resources"][0]).resolve() == TREE / "base"
    assert kustomization["components"][-1] == "run"
    # Of the overlay before, nothing is left.
    assert not (folder / "run/scaling.yaml").exists()


def test_a_folder_with_other_files_is_left_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds something that `oprime k8s render` did not write"):
        write_overlay(make_config(), "local", folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_an_unknown_overlay_is_refused_with_those_there_are(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--overlay small: .* has none of this name, but gpu-single, large, local"):
        write_overlay(make_config(), "small", tmp_path / "out")
    with pytest.raises(UsageError, match=r"there are no overlays in .*: use a checkout of oprime"):
        write_overlay(make_config(), "local", tmp_path / "out", tree=tmp_path)


def test_an_overlay_says_what_its_cluster_is_like() -> None:
    assert features(TREE / "overlays/local") == {"network-policy", "run"}
    assert features(TREE / "overlays/large") >= {"gpu", "jobset", "kueue", "keda", "gvisor", "tls"}


def test_the_command_without_kubectl_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["k8s", "render", str(TREE.parent / "config/demo.toml")]) == 2
    assert "neither kubectl nor kustomize is on PATH" in capsys.readouterr().err
    assert main(["k8s", "render", str(TREE.parent / "config/demo.toml"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out'}; apply it with `kubectl apply -k {tmp_path / 'out'}`\n"


def test_the_command_prints_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "secrets", str(TREE.parent / "config/demo.toml")]) == 0
    assert len(list(yaml.safe_load_all(capsys.readouterr().out))) == 3
