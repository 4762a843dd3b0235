"""Every overlay of deploy/k8s, made by real kustomize: what the API server would accept, and what oprime demands besides."""

import functools
import ipaddress
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from kubernetes_manifests import (
    OVERLAYS,
    ROOT,
    TREE,
    Manifest,
    Rendered,
    containers,
    job_of,
    main_container,
    rendered,
    rendered_for,
    template_of,
    walk,
)
from oprime.runtime.setting_rules import SERVICES
from oprime_cli.kubernetes.cluster_settings import SCORER, port_of
from oprime_cli.kubernetes.overlays import EXAMPLES, OBSERVABILITY, generated_files
from oprime_cli.kubernetes.secrets import new_secrets
from oprime_cli.overrides import load_config
from oprime_cli.run_config import RunConfig
from oprime_gateway.app import GRACE_S

VERSION = "1.37"
CRDS = ROOT / "../shared/data/crds"
CUSTOM = ("jobset.x-k8s.io", "kueue.x-k8s.io", "keda.sh", "monitoring.coreos.com", "leaderworkerset.x-k8s.io")
CLUSTER_WIDE = ("Namespace", "PriorityClass", "RuntimeClass", "ClusterQueue", "ResourceFlavor")
GRPC = (*(name for name in SERVICES if name != "gateway"), SCORER)
FROM_OUTSIDE = {"tls"}
"""Secrets that neither the manifests nor `oprime k8s secrets` make."""

once = functools.cache(rendered)


@pytest.fixture(params=OVERLAYS)
def run(request: pytest.FixtureRequest) -> Rendered:
    return once(request.param)


def is_custom(manifest: Manifest) -> bool:
    return manifest["apiVersion"].partition("/")[0] in CUSTOM


# What the API server accepts


def test_every_manifest_of_kubernetes_itself_is_valid_to_the_last_field(run: Rendered) -> None:
    own = [manifest for manifest in run.manifests if not is_custom(manifest)]
    assert len(own) > 30
    for manifest in own:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_field_that_does_not_exist_is_noticed(run: Rendered) -> None:
    wrong = json.loads(json.dumps(run.one("Deployment", "verifier")))
    wrong["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="redinessProbe"):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.skipif(not CRDS.is_dir(), reason="the schemas of custom resources are not beside this checkout")
def test_every_custom_resource_is_valid_to_the_last_field(run: Rendered) -> None:
    for manifest in filter(is_custom, run.manifests):
        validate_custom(manifest)


def validate_custom(manifest: Manifest) -> None:
    """Nothing where the schemas are not beside this checkout."""
    group, version = manifest["apiVersion"].split("/")
    schema = CRDS / f"{manifest['kind'].lower()}-{group.partition('.')[0]}-{version}.json"
    if CRDS.is_dir():
        # Not jsonschema.validate, which refuses a pattern in Go's dialect in a field that is not used here.
        jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8"))).validate(manifest)


def test_the_large_overlay_has_what_its_components_promise() -> None:
    kinds = {manifest["kind"] for manifest in once("large").manifests}
    assert kinds >= {
        "JobSet",
        "LeaderWorkerSet",
        "ClusterQueue",
        "LocalQueue",
        "ScaledObject",
        "TriggerAuthentication",
        "RuntimeClass",
        "PodMonitor",
        "PrometheusRule",
    }
    assert {job["metadata"]["name"] for job in once("large").of("Job")} == {"prepare", "conclude"}


def test_nothing_is_there_twice(run: Rendered) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in run.manifests]
    assert sorted(set(names)) == sorted(names)


def test_all_is_in_the_namespace_but_what_belongs_to_the_cluster(run: Rendered) -> None:
    for manifest in run.manifests:
        wanted = None if manifest["kind"] in CLUSTER_WIDE else "oprime"
        assert manifest["metadata"].get("namespace") == wanted, (manifest["kind"], manifest["metadata"])


NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
PORT = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")


def test_names_labels_and_ports_are_written_as_the_api_server_wants_them(run: Rendered) -> None:
    for manifest in run.manifests:
        assert NAME.fullmatch(manifest["metadata"]["name"]), manifest["metadata"]["name"]
        assert all(LABEL.fullmatch(value) for labels in walk(manifest, "labels") for value in labels.values())
    for name, template in run.pods().items():
        assert all(PORT.fullmatch(port) for port in named_ports(template)), name
        ports = [port["containerPort"] for container in template["spec"]["containers"] for port in container.get("ports", [])]
        assert len(set(ports)) == len(ports)
        variables = [item["name"] for item in main_container(template).get("env", [])]
        assert len(set(variables)) == len(variables)
        assert len({container["name"] for container in containers(template)}) == len(containers(template))


def test_what_is_updated_always_has_a_way_to_go_on(run: Rendered) -> None:
    for manifest in run.of("Deployment"):
        strategy = manifest["spec"]["strategy"]
        assert strategy == {"type": "Recreate"} or sum(strategy["rollingUpdate"].values()) == 1


# Pod security


def test_the_namespace_enforces_the_restricted_profile(run: Rendered) -> None:
    labels = run.one("Namespace", "oprime")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


RESTRICTED_VOLUMES = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}


def test_every_pod_keeps_the_restricted_profile(run: Rendered) -> None:
    for name, template in run.pods().items():
        pod = template["spec"]
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (10001, 10001, 10001)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= RESTRICTED_VOLUMES, (name, volume)


def test_every_container_is_locked(run: Rendered) -> None:
    for name, template in run.pods().items():
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (name, container["name"])


def test_no_pod_has_a_token_of_the_api_server(run: Rendered) -> None:
    assert run.one("ServiceAccount", "oprime")["automountServiceAccountToken"] is False
    for template in run.pods().values():
        assert template["spec"]["automountServiceAccountToken"] is False
        assert template["spec"]["serviceAccountName"] == "oprime"


def test_secrets_are_closed_to_all_but_the_pods_own_group(run: Rendered) -> None:
    found = list(walk([template["spec"]["volumes"] for template in run.pods().values()], "secret"))
    assert len(found) >= 8
    assert {secret["defaultMode"] for secret in found} == {0o440}


def test_the_verifier_has_no_file_of_the_run_and_no_password_but_its_own(run: Rendered) -> None:
    volumes = run.pods()["verifier"]["spec"]["volumes"]
    assert not [volume for volume in volumes if "persistentVolumeClaim" in volume]
    assert list(walk(volumes, "items")) == [[{"key": "verifier", "path": "verifier"}]]


# Sizes, images, probes


def test_every_container_says_what_it_needs_and_its_most(run: Rendered) -> None:
    for name, template in run.pods().items():
        for container in containers(template):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(requests) == set(limits), (name, container["name"])
            assert requests["memory"] == limits["memory"]
            # GPUs are never shared out beyond what there is.
            assert all(requests[key] == limits[key] for key in requests if "/" in key)


def test_the_local_overlay_fits_the_machine_that_the_documentation_names() -> None:
    # It has no replicas that only score.
    main = [main_container(template)["resources"]["requests"] for name, template in once("local").pods().items() if name != SCORER]
    assert sum(float(need["cpu"].removesuffix("m")) / 1000 for need in main) <= 2
    assert sum(mebibytes(need["memory"]) for need in main) <= 16 * 1024


def test_every_component_and_overlay_is_documented() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    names = [path.name for kind in ("components", "overlays") for path in (TREE / kind).iterdir()]
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_images_have_a_version(run: Rendered) -> None:
    for template in run.pods().values():
        for container in containers(template):
            name, _, tag = container["image"].rpartition(":")
            assert name, container["image"]
            assert re.match(r"\d+\.\d+\.\d+", tag), container["image"]
            assert "latest" not in tag


def test_each_service_runs_its_module_in_an_image_that_has_it(run: Rendered) -> None:
    machine = "gpu" if "gpu" in run.features else "cpu"
    targets = {**dict.fromkeys(("prm", SCORER, "learner"), f"train-{machine}"), "generator": f"generator-{machine}"}
    for name in run.services:
        container = main_container(run.pods()[name])
        assert container["image"] == f"oprime:0.1.0-{targets.get(name, 'slim')}"
        module = "oprime_prm.scoring" if name == SCORER else f"oprime_{name}"
        assert container["command"][:3] == ["python", "-m", module]
        package = module.partition(".")[0]
        assert (ROOT / "services" / package.removeprefix("oprime_") / f"{module.replace('.', '/')}/__main__.py").is_file()


def test_every_service_has_the_three_probes_and_liveness_is_a_question_of_its_own(run: Rendered) -> None:
    for name in (*run.services, "redis"):
        container = main_container(run.pods()[name])
        startup, ready, alive = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
        handlers = [
            {key: probe[key] for key in probe if key in ("grpc", "httpGet", "exec", "tcpSocket")} for probe in (startup, ready, alive)
        ]
        assert all(len(handler) == 1 for handler in handlers), (name, handlers)
        assert handlers[2] != handlers[1], name
        # Loading a model may take long; a service that is up is asked sooner.
        assert startup["failureThreshold"] * startup["periodSeconds"] >= 300


def test_the_kubelet_asks_grpc_servers_over_grpc_unless_they_want_a_certificate(run: Rendered) -> None:
    for name in set(GRPC) & set(run.services):
        container = main_container(run.pods()[name])
        ready = container["readinessProbe"]
        if "tls" in run.features:
            assert ready["httpGet"] == {"path": "/readyz", "port": "metrics"}
        else:
            assert ready["grpc"] == {"port": port_of(run.settings, name)}
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}


def test_what_holds_a_model_has_shared_memory(run: Rendered) -> None:
    for name in ("generator", "prm", "learner"):
        template = run.pods()[name]
        mounts = {mount["mountPath"]: mount["name"] for mount in main_container(template)["volumeMounts"]}
        volume = next(volume for volume in template["spec"]["volumes"] if volume["name"] == mounts["/dev/shm"])  # noqa: S108
        assert volume["emptyDir"]["medium"] == "Memory"
        # vLLM needs 160 MiB.
        assert mebibytes(volume["emptyDir"]["sizeLimit"]) > 160
        assert mebibytes(volume["emptyDir"]["sizeLimit"]) < mebibytes(main_container(template)["resources"]["limits"]["memory"])


def mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


def test_ranks_and_replicas_and_gpus_are_those_of_the_settings(run: Rendered) -> None:
    gpu = "gpu" in run.features
    for name in ("prm", "learner"):
        job = job_of(run.one("JobSet" if "jobset" in run.features else "Job", name))
        assert (job["completions"], job["parallelism"], job["completionMode"]) == (1, 1, "Indexed")
        assert gpus(job["template"]) == (getattr(run.settings, name).ranks if gpu else 0)
    assert gpus(run.pods()["generator"]) == (run.settings.generator.tensor_parallel if gpu else 0)
    assert run.one("Deployment", SCORER)["spec"]["replicas"] == run.settings.scoring.replicas
    for name in ("gateway", "generator", "verifier"):
        replicas = run.one(kind_of(run, name), name)["spec"].get("replicas")
        scaled = "keda" in run.features and name != "gateway"
        assert replicas == (None if scaled else getattr(run.settings.kubernetes.replicas, name))


def kind_of(run: Rendered, name: str) -> str:
    return "LeaderWorkerSet" if name == "generator" and "leader-worker-set" in run.features else "Deployment"


def gpus(template: Manifest) -> int:
    return int(main_container(template)["resources"]["limits"].get("nvidia.com/gpu", "0"))


def test_gpu_pods_tolerate_nodes_that_are_kept_for_them(run: Rendered) -> None:
    for template in run.pods().values():
        tolerated = [item["key"] for item in template["spec"].get("tolerations", [])]
        assert not gpus(template) or "nvidia.com/gpu" in tolerated


def test_pods_have_a_priority_that_exists(run: Rendered) -> None:
    values = {manifest["metadata"]["name"]: manifest["value"] for manifest in run.of("PriorityClass")}
    given = {name: values[template["spec"]["priorityClassName"]] for name, template in run.pods().items()}
    assert (
        given["redis"]
        == given["coordinator"]
        == given["prepare"]
        > given["learner"]
        == given["prm"]
        > given["generator"]
        == given["verifier"]
    )


# References


def test_every_reference_resolves(run: Rendered) -> None:
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in run.manifests}
    made = {manifest["metadata"]["name"]: set(manifest["stringData"]) for manifest in yaml.safe_load_all(new_secrets(run.settings))}
    for template in run.pods().values():
        pod = template["spec"]
        assert ("ServiceAccount", pod["serviceAccountName"]) in there
        assert "runtimeClassName" not in pod or ("RuntimeClass", pod["runtimeClassName"]) in there
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
            if "secret" in volume:
                name = volume["secret"]["secretName"]
                assert name in FROM_OUTSIDE or {item["key"] for item in volume["secret"]["items"]} <= made[name]
    for reference in walk(list(run.of("TriggerAuthentication")), "secretTargetRef"):
        assert all(item["name"] in FROM_OUTSIDE or item["key"] in made[item["name"]] for item in reference)


def test_every_mount_has_its_volume_and_every_volume_is_mounted(run: Rendered) -> None:
    for name, template in run.pods().items():
        volumes = {volume["name"] for volume in template["spec"]["volumes"]} | ({"data"} if name == "redis" else set())
        mounted = {mount["name"] for container in containers(template) for mount in container.get("volumeMounts", [])}
        assert mounted == volumes, name
        for container in containers(template):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(set(paths)) == len(paths), name


def test_selectors_find_the_pods_that_they_mean(run: Rendered) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in run.pods().items()}
    for manifest in run.of("Service", "PodDisruptionBudget"):
        selector = manifest["spec"]["selector"]
        wanted = {key: value for key, value in selector.get("matchLabels", selector).items() if not key.endswith("-index")}
        found = [name for name, has in labels.items() if wanted.items() <= has.items()]
        assert found == [manifest["metadata"]["labels"]["app.kubernetes.io/name"]], manifest["metadata"]["name"]
    for manifest in run.of("Deployment", "StatefulSet"):
        assert manifest["spec"]["selector"]["matchLabels"].items() <= template_of(manifest)["metadata"]["labels"].items()  # type: ignore[index]


def test_named_ports_exist_where_they_are_named(run: Rendered) -> None:
    ports = {name: named_ports(template) for name, template in run.pods().items()}
    for service in run.of("Service"):
        name = service["metadata"]["labels"]["app.kubernetes.io/name"]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports[name]), service["metadata"]["name"]
    for name, template in run.pods().items():
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            handler = main_container(template).get(probe, {})
            port = handler.get("httpGet", handler.get("tcpSocket", {})).get("port")
            assert port is None or port in ports[name]
    for monitor in run.of("PodMonitor"):
        watched = monitor["spec"]["selector"]["matchExpressions"][0]["values"]
        assert set(watched) == set(run.services)
        assert all("metrics" in ports[name] for name in watched)


def named_ports(template: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for container in template["spec"]["containers"] for port in container.get("ports", [])}


# Settings


def test_addresses_of_the_settings_are_services_of_the_manifests(run: Rendered) -> None:
    for name in run.services:
        host, port = (f"{SCORER}:50056" if name == SCORER else getattr(run.settings.endpoints, name)).split(":")
        service = run.one("Service", host)
        kind = "http" if name == "gateway" else "grpc"
        assert [(item["name"], item["port"]) for item in service["spec"]["ports"]] == [(kind, int(port))]
        assert named_ports(run.pods()[name])[kind] == int(port)
        assert named_ports(run.pods()[name])["metrics"] == run.settings.endpoints.metrics_port == 9464
    scheme = "rediss" if "tls" in run.features else "redis"
    assert run.settings.queue.url == f"{scheme}://redis:{run.one('Service', 'redis')['spec']['ports'][0]['port']}/0"


def test_services_that_are_called_over_grpc_are_headless(run: Rendered) -> None:
    for name in set(GRPC) & set(run.services):
        assert run.one("Service", name)["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in run.one("Service", "gateway")["spec"]


def test_pods_read_the_settings_of_the_run(run: Rendered) -> None:
    settings = next(manifest for manifest in run.of("ConfigMap") if re.fullmatch(r"run-[a-z0-9]{10}", manifest["metadata"]["name"]))
    for name in run.services:
        template = run.pods()[name]
        *_, path = main_container(template)["command"]
        volume = next(volume for volume in template["spec"]["volumes"] if volume["name"] == "settings")
        assert volume["configMap"]["name"] == settings["metadata"]["name"]
        document = tomllib.loads(settings["data"][Path(path).name])
        read = RunConfig.from_document(document, origin=name)
        ends = "serve" if name in ("coordinator", "gateway", "generator", "verifier", SCORER) else "exit"
        wanted = run.settings.run.model_copy(update={"when_finished": ends})
        assert read == run.settings.model_copy(update={"kubernetes": read.kubernetes, "run": wanted})
        assert read.contradictions() == []


def test_files_that_settings_name_are_mounted(run: Rendered) -> None:
    for name in run.services:
        mounts = [mount["mountPath"] for mount in main_container(run.pods()[name])["volumeMounts"]]
        wanted = {"gateway": {"/run/secrets/gateway"}, SCORER: set[str]()}.get(name, {"/run/secrets/redis"})
        assert wanted == {mount for mount in mounts if mount.startswith("/run/secrets/") and not mount.endswith("/tls")}
        if name != "verifier":
            assert str(run.settings.run.folder).startswith("/var/lib/oprime/")
            assert "/var/lib/oprime" in mounts


def test_the_gateway_reads_what_the_run_has_written_and_changes_nothing(run: Rendered) -> None:
    # The dashboard's pages and /v1/runs are made of the run's files.
    (mount,) = [mount for mount in main_container(run.pods()["gateway"])["volumeMounts"] if mount["mountPath"] == "/var/lib/oprime"]
    assert mount["readOnly"] is True


def test_a_gateway_that_ends_answers_until_nobody_sends_it_requests_any_more(run: Rendered) -> None:
    template = run.pods()["gateway"]
    pause = main_container(template)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause >= 5
    assert pause + GRACE_S < template["spec"]["terminationGracePeriodSeconds"]


def test_redis_is_the_same_everywhere_and_has_no_known_hole(run: Rendered) -> None:
    images = {container["image"] for container in containers(run.pods()["redis"])}
    (compose,) = set(re.findall(r"redis:[\w.-]*alpine", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert images == {compose}
    # Before 7.4.6 a script, which each service may run, could run machine code (CVE-2025-49844); 7.4.9 closes more of the kind.
    assert tuple(map(int, re.findall(r"\d+", compose)[:3])) >= (7, 4, 9)


def test_services_wait_for_what_is_prepared_for_their_settings(run: Rendered) -> None:
    marker = "/var/lib/oprime/prepared/$(sha256sum /etc/oprime/run.toml | cut -c1-16)"
    assert f'touch "{marker}"' in main_container(run.pods()["prepare"])["command"][-1]
    for name in ("coordinator", "generator", "prm", SCORER, "learner", "conclude"):
        (wait,) = run.pods()[name]["spec"]["initContainers"]
        assert f"made={marker}\n" in wait["command"][-1]


def test_what_waits_for_prepare_goes_on_once_it_has_prepared_the_same_settings(run: Rendered, tmp_path: Path) -> None:
    def script(name: str) -> list[str]:
        containers_of = run.pods()[name]["spec"]
        shell, option, text = (
            main_container(run.pods()[name])["command"] if name == "prepare" else containers_of["initContainers"][0]["command"]
        )
        for place in ("/var/lib/oprime", "/etc/oprime"):
            text = text.replace(place, f"{tmp_path}{place}")
        # The command itself is tested where it is written.
        return [shell, option, text.replace("python -m oprime_cli.main prepare", "test -s")]

    settings = tmp_path / "etc/oprime/run.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("[run]\n", encoding="utf-8")
    with subprocess.Popen(script("generator"), stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("waiting for ")
        subprocess.run(script("prepare"), check=True)
        assert waiting.wait(20) == 0
    settings.write_text("[run]\nsteps = 2\n", encoding="utf-8")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(script("generator"), timeout=3, check=False)


# Disruptions


def test_every_service_has_a_disruption_budget(run: Rendered) -> None:
    budgets = {manifest["metadata"]["name"]: manifest["spec"] for manifest in run.of("PodDisruptionBudget")}
    assert set(budgets) == {*run.services, "redis"}
    for name, budget in budgets.items():
        # A job has no number of replicas that a budget could be a part of.
        assert ("minAvailable" in budget) == (name in ("redis", "prm", "learner"))
        assert "maxUnavailable" not in budget or budget["maxUnavailable"] == 1


def test_trainers_end_on_wrong_settings_and_start_again_on_anything_else(run: Rendered) -> None:
    for name in ("prm", "learner"):
        manifest = run.one("JobSet" if "jobset" in run.features else "Job", name)
        job = job_of(manifest)
        assert job["template"]["spec"]["restartPolicy"] == "Never"
        fail, ignore = job["podFailurePolicy"]["rules"]
        assert fail == {"action": "FailJob", "onExitCodes": {"containerName": "service", "operator": "In", "values": [2, 3]}}
        assert ignore["action"] == "Ignore"
        if manifest["kind"] == "JobSet":
            assert job["backoffLimit"] == 0
            assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 50
            assert manifest["spec"]["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
        else:
            assert job["backoffLimit"] == 50


def test_hosts_of_a_trainer_meet_under_the_name_of_host_0(run: Rendered) -> None:
    for name in ("prm", "learner"):
        kind = "JobSet" if "jobset" in run.features else "Job"
        manifest = run.one(kind, name)
        address = next(
            item["value"] for item in main_container(job_of(manifest)["template"])["env"] if item["name"] == "OPRIME_HOST_ADDRESS"
        )
        if kind == "JobSet":
            network, (replicated,) = manifest["spec"]["network"], manifest["spec"]["replicatedJobs"]
            assert address == f"{name}-{replicated['name']}-0-0.{network['subdomain']}:29500"
            assert network["enableDNSHostnames"]
            assert network["publishNotReadyAddresses"]
        else:
            service = run.one("Service", f"{name}-hosts")
            assert address == f"{name}-0.{service['metadata']['name']}:29500"
            assert service["spec"]["publishNotReadyAddresses"] is True
            assert manifest["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


# Generators over several hosts

LEADERS = "leaderworkerset.sigs.k8s.io/worker-index"
"""The label that LeaderWorkerSet gives each pod of a group: its number, from 0."""


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The large overlay with generators of two hosts each."""
    changes = ["generator.tensor_parallel=16", "kubernetes.hosts.generator=2"]
    config = load_config(ROOT / "deploy/config" / EXAMPLES["large"], changes)
    return rendered_for("large", tmp_path_factory.mktemp("spread") / "run", config)


def test_a_generator_over_hosts_is_a_group_of_pods_that_starts_again_as_a_whole(spread: Rendered) -> None:
    spec = spread.one("LeaderWorkerSet", "generator")["spec"]
    assert not [manifest for manifest in spread.of("Deployment") if manifest["metadata"]["name"] == "generator"]
    assert spec["leaderWorkerTemplate"]["size"] == 2
    assert spec["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"
    # The other hosts join before the first can be ready.
    assert spec["startupPolicy"] == "LeaderCreated"
    # One template, whose first pod finds out that it is the first.
    assert set(spec["leaderWorkerTemplate"]) == {"size", "restartPolicy", "workerTemplate"}
    validate_custom(spread.one("LeaderWorkerSet", "generator"))


def test_hosts_of_a_generator_meet_under_the_name_that_leader_worker_set_gives_the_first(spread: Rendered) -> None:
    spec = spread.one("LeaderWorkerSet", "generator")["spec"]
    container = main_container(spread.pods()["generator"])
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert variables["OPRIME_HOSTS"] == "2"
    assert variables["OPRIME_HOST_INDEX"] == "$(LWS_WORKER_INDEX)"
    assert variables["OPRIME_HOST_ADDRESS"] == f"$(LWS_LEADER_ADDRESS):{named_ports(spread.pods()['generator'])['rendezvous']}"
    # That name is of a Service of each group, as the Service `generator` knows no pod that is not ready.
    assert spec["networkConfig"]["subdomainPolicy"] == "UniquePerReplica"
    assert ("generator", "generator", "any") in allowed(spread, "ingress") & allowed(spread, "egress")


def test_callers_and_the_kubelet_find_the_hosts_that_can_answer(spread: Rendered) -> None:
    assert spread.one("Service", "generator")["spec"]["selector"] == {"app.kubernetes.io/name": "generator", LEADERS: "0"}
    container = main_container(spread.pods()["generator"])
    # The other hosts serve no gRPC.
    assert container["readinessProbe"]["httpGet"] == container["startupProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}


def test_gpus_quota_and_scaling_count_groups_of_pods(spread: Rendered) -> None:
    assert gpus(spread.pods()["generator"]) == 8
    (group,) = spread.one("ClusterQueue", "oprime")["spec"]["resourceGroups"]
    quota = {item["name"]: item["nominalQuota"] for item in group["flavors"][0]["resources"]}
    # Two generators of two hosts with eight GPUs each, two trainers of two.
    assert quota["nvidia.com/gpu"] == "36"
    assert spread.one("LeaderWorkerSet", "generator")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "oprime"
    target = spread.one("ScaledObject", "generator")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "generator"}
    assert "replicas" not in spread.one("LeaderWorkerSet", "generator")["spec"]


# Network policies


def selected(run: Rendered, selector: Manifest) -> set[str]:
    """The pods that a selector finds."""
    return {name for name, template in run.pods().items() if matches(template["metadata"]["labels"], selector)}


def matches(labels: dict[str, str], selector: Manifest) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(item["operator"] == "In" for item in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(item["key"]) in item["values"] for item in expressions
    )


def allowed(run: Rendered, direction: str) -> set[tuple[str, str, str]]:
    """Who may speak with whom, on which port, by policies of one direction: (pod, other side, port)."""
    other = {"ingress": "from", "egress": "to"}[direction]
    found: set[tuple[str, str, str]] = set()
    for policy in run.of("NetworkPolicy"):
        for rule in policy["spec"].get(direction, []):
            sides = {side for peer in rule.get(other, [{"world": ""}]) for side in peer_names(run, peer)}
            ports = [str(port["port"]) for port in rule.get("ports", [{"port": "any"}])]
            found |= {(pod, side, port) for pod in selected(run, policy["spec"]["podSelector"]) for side in sides for port in ports}
    return found


def peer_names(run: Rendered, peer: Manifest) -> set[str]:
    if "namespaceSelector" in peer:
        return {f"namespace {peer['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}"}
    return selected(run, peer["podSelector"]) if "podSelector" in peer else {"world"}


def test_what_no_policy_allows_is_denied_for_every_pod(run: Rendered) -> None:
    assert run.one("NetworkPolicy", "deny-all")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_a_verifier_reaches_redis_and_names_only(run: Rendered) -> None:
    reached = {(side, port) for pod, side, port in allowed(run, "egress") if pod == "verifier"}
    assert reached == {("redis", "redis"), ("namespace kube-system", "53")}


def test_the_gateway_alone_is_reached_from_outside(run: Rendered) -> None:
    assert {(pod, port) for pod, side, port in allowed(run, "ingress") if side == "world"} == {("gateway", "http")}


def test_prepare_alone_reaches_the_world(run: Rendered) -> None:
    assert {(pod, port) for pod, side, port in allowed(run, "egress") if side == "world"} == {("prepare", "443")}
    assert "prepare" not in {side for _, side, _ in allowed(run, "ingress")}


def test_both_ends_of_every_call_inside_are_allowed(run: Rendered) -> None:
    going = {(pod, side, port) for pod, side, port in allowed(run, "egress") if side in run.pods()}
    coming = {(side, pod, port) for pod, side, port in allowed(run, "ingress") if side in run.pods()}
    # The gateway's port is open to all, and named by none.
    assert going - {("coordinator", "gateway", "http")} == coming
    calls = {(source, target) for source, target, _ in going}
    assert {("gateway", name) for name in run.services if name != "gateway"} <= calls
    assert {(name, "redis") for name in (*run.services, "conclude") if name not in ("gateway", SCORER)} <= calls
    assert (SCORER, "redis") not in calls
    assert {("coordinator", name) for name in run.services if name not in ("coordinator", SCORER)} <= calls
    assert {("learner", "learner"), ("prm", "prm"), ("generator", "generator")} <= calls


def test_metrics_come_from_the_monitoring_namespace(run: Rendered) -> None:
    watched = {pod for pod, side, port in allowed(run, "ingress") if (side, port) == ("namespace monitoring", "metrics")}
    assert watched >= set(run.services)


def test_world_means_the_world() -> None:
    blocks = list(walk(list(once("local").of("NetworkPolicy")), "cidr"))
    assert sorted(blocks) == ["0.0.0.0/0", "::/0"]
    assert all(ipaddress.ip_network(block).prefixlen == 0 for block in blocks)


# Scaling


def test_generators_scale_by_the_length_of_their_queue_and_verifiers_by_its_lag() -> None:
    run = once("large")
    scaled = {manifest["metadata"]["name"]: manifest["spec"] for manifest in run.of("ScaledObject")}
    name = run.settings.run.name
    (generator,), (verifier,) = scaled["generator"]["triggers"], scaled["verifier"]["triggers"]
    assert generator["metadata"]["stream"] == f"oprime:{{{name}}}:stream:tickets"
    assert generator["metadata"]["streamLength"] == str(run.settings.generator.max_running_groups)
    assert not {"lagCount", "pendingEntriesCount"} & set(generator["metadata"])
    assert verifier["metadata"]["stream"] == f"oprime:{{{name}}}:stream:rollouts"
    assert (verifier["metadata"]["consumerGroup"], verifier["metadata"]["lagCount"]) == ("workers", "256")
    for name, spec in scaled.items():
        assert spec["scaleTargetRef"]["name"] == name
        assert spec["minReplicaCount"] >= 1
        assert spec["maxReplicaCount"] == getattr(run.settings.kubernetes.most_replicas, name)


def test_the_quota_has_room_for_all_that_waits_in_the_queue() -> None:
    run = once("large")
    queued = {
        manifest["metadata"]["name"] for manifest in run.manifests if "kueue.x-k8s.io/queue-name" in manifest["metadata"].get("labels", {})
    }
    assert queued == {"generator", "prm", SCORER, "learner"}
    (group,) = run.one("ClusterQueue", "oprime")["spec"]["resourceGroups"]
    quota = {item["name"]: item["nominalQuota"] for item in group["flavors"][0]["resources"]}
    # Two generators of four GPUs, two trainers of two.
    assert quota["nvidia.com/gpu"] == "12"
    assert mebibytes(quota["memory"]) == 1024 * (2 * 64 + 160 + 160)


# Generated files


def test_generated_files_are_up_to_date() -> None:
    fresh = generated_files()
    assert {path for path in fresh if not path.is_file() or path.read_text(encoding="utf-8") != fresh[path]} == set(), (
        "run `python -m oprime_cli.kubernetes.overlays`"
    )
    written = {path for overlay in OVERLAYS for path in (TREE / "overlays" / overlay / "run").iterdir()}
    assert written <= set(fresh)


def test_the_cluster_has_the_alerts_and_dashboards_of_the_observability_folder() -> None:
    run = once("large")
    alerts = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text(encoding="utf-8"))
    assert run.one("PrometheusRule", "oprime")["spec"]["groups"] == alerts["groups"]
    maps = [manifest for manifest in run.of("ConfigMap") if manifest["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    shown: dict[str, Any] = {name: json.loads(text) for manifest in maps for name, text in manifest["data"].items()}
    assert shown == {path.name: json.loads(path.read_text(encoding="utf-8")) for path in OBSERVABILITY.glob("dashboards/*.json")}


def test_prometheus_in_the_cluster_gives_series_the_labels_that_the_alerts_ask_for() -> None:
    # As deploy/observability/prometheus.yml does outside: job="oprime", and the service's own word for the rest.
    (outside,) = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    monitor = once("large").one("PodMonitor", "oprime")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is outside["honor_labels"] is True
    assert [rule["targetLabel"] for rule in endpoint["relabelings"]] == [rule["target_label"] for rule in outside["relabel_configs"]]
    for name in once("large").services:
        assert once("large").pods()[name]["metadata"]["labels"][monitor["jobLabel"]] == outside["job_name"]


# Replicas that only score


def test_replicas_that_only_score_are_as_many_as_the_settings_say_and_the_gateway_asks_them(tmp_path: Path) -> None:
    config = load_config(ROOT / "deploy/config" / EXAMPLES["large"], ["scoring.replicas=3", "kubernetes.memory_gib.scorer=48"])
    run = rendered_for("large", tmp_path / "run", config)
    assert run.settings.endpoints.scorers == ("scorer:50056",)
    assert run.one("Service", SCORER)["spec"]["clusterIP"] == "None"
    deployment = run.one("Deployment", SCORER)
    assert deployment["spec"]["replicas"] == 3
    limits = main_container(deployment["spec"]["template"])["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["memory"]) == ("1", "48Gi")
    (group,) = run.one("ClusterQueue", "oprime")["spec"]["resourceGroups"]
    quota = {item["name"]: item["nominalQuota"] for item in group["flavors"][0]["resources"]}
    assert quota["nvidia.com/gpu"] == "15"


def test_a_run_without_a_prm_has_nothing_that_scores(tmp_path: Path) -> None:
    changes = ["algorithm.process_weight=0", "scoring.replicas=3", "kubernetes.memory_gib.scorer=48"]
    run = rendered_for("large", tmp_path / "run", load_config(ROOT / "deploy/config" / EXAMPLES["large"], changes))
    assert run.one("Deployment", SCORER)["spec"]["replicas"] == 0
