"""Rules about settings that one section's fields cannot express: those that span sections, and those that hold for a few readers only.

A rule is a function whose parameters are the sections that it reads, by name. It returns what is wrong, a sentence each: which settings,
their values, the rule, the remedy. `ServiceSettings.contradictions` applies it wherever all of its sections are read, so that a service
that is started by itself refuses the same settings in the same words as `oprime train`. Rules of a service's own sections stand in its
config.py, those that no single service could check in `oprime_cli.run_config`.
"""

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

from oprime.runtime.errors import SettingsError
from oprime.runtime.queue_url import holds_secret, queue_url_problem, without_password

if TYPE_CHECKING:
    from oprime.runtime.settings import (
        AlgorithmSection,
        EndpointsSection,
        ModelSection,
        PayloadsSection,
        QueueSection,
        SamplingSection,
        StalenessSection,
        StoreSection,
        TasksSection,
        TlsSection,
    )

Problems = list[str]
Rule = Callable[..., Problems]

SERVICES = ("coordinator", "generator", "verifier", "prm", "learner", "gateway")

NO_PRM = "this run has no PRM: algorithm.process_weight = 0"


def trainers_of(algorithm: "AlgorithmSection") -> tuple[str, ...]:
    """The services that hold batches until a checkpoint contains them."""
    return tuple(name for name in services_of(algorithm) if name in ("prm", "learner"))


def services_of(algorithm: "AlgorithmSection") -> tuple[str, ...]:
    """The services that a run has."""
    return tuple(name for name in SERVICES if name != "prm" or algorithm.needs_prm)


def siblings_to_compare_with(sampling: "SamplingSection", algorithm: "AlgorithmSection") -> Problems:
    size = sampling.group_size
    if not algorithm.needs_siblings or size >= 2:
        return []
    return [
        f'sampling.group_size = {size} with algorithm.estimator = "{algorithm.estimator}": rollouts are compared with their siblings, so K '
        "must be at least 2; set sampling.group_size=4, or algorithm.estimator=reinforce"
    ]


def overlong_buffer_fits(sampling: "SamplingSection", algorithm: "AlgorithmSection") -> Problems:
    buffer, limit = algorithm.overlong_buffer, sampling.max_response_tokens
    if buffer <= limit:
        return []
    return [
        f"algorithm.overlong_buffer = {buffer} is more than sampling.max_response_tokens = {limit}: even an empty response would be "
        f"over-long; set algorithm.overlong_buffer={max(1, limit // 4)}"
    ]


def versions_are_kept(store: "StoreSection", staleness: "StalenessSection") -> Problems:
    kept, needed = store.keep_versions, staleness.max_staleness + 2
    if kept >= needed:
        return []
    return [
        f"store.keep_versions = {kept} is below staleness.max_staleness + 2 = {needed}: a version that rollouts may still come from would "
        f"be removed; set store.keep_versions={needed}"
    ]


def attention_fits_dtype(model: "ModelSection") -> Problems:
    if model.attention != "flash_attention_2" or model.dtype == "bfloat16":
        return []
    return ['model.attention = "flash_attention_2" computes in half precision only: set model.dtype=bfloat16 or model.attention=sdpa']


def tasks_are_named(tasks: "TasksSection") -> Problems:
    if tasks.source != "rows":
        return []
    return [
        f'tasks.{name} is empty with tasks.source = "rows": name a JSONL or parquet file, or set tasks.source=chain'
        for name in ("train", "heldout")
        if not getattr(tasks, name)
    ]


def addresses_are_distinct(endpoints: "EndpointsSection") -> Problems:
    problems: Problems = []
    taken: dict[str, str] = {}
    for service in SERVICES:
        setting, address = f"endpoints.{service}", getattr(endpoints, service)
        try:
            _, port = split_address(address, setting)
        except SettingsError as error:
            problems.append(str(error))
            continue
        if port and address in taken:
            problems.append(f"{setting} and {taken[address]} are both {address}: give each service a port of its own, or port 0")
        taken.setdefault(address, setting)
    return problems


def collector_is_named(endpoints: "EndpointsSection") -> Problems:
    url = endpoints.traces_url
    scheme, _, address = url.partition("://")
    host, _, port = address.rpartition(":")
    if not url or (scheme in ("http", "https") and host and port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):
        return []
    return [
        f"endpoints.traces_url = {url!r}: write http://HOST:PORT or https://HOST:PORT of a collector's OTLP/gRPC port, for example "
        "http://127.0.0.1:4317; empty for no traces"
    ]


def metrics_ports_are_free_of_services(endpoints: "EndpointsSection") -> Problems:
    if not endpoints.metrics_port:
        return []
    taken = {getattr(endpoints, service).rpartition(":")[2]: f"endpoints.{service}" for service in SERVICES}
    setting = taken.get(str(endpoints.metrics_port))
    return (
        [f"endpoints.metrics_port = {endpoints.metrics_port} is the port of {setting} too: give metrics a port of its own"]
        if setting
        else []
    )


def split_address(address: str, setting: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. Raises SettingsError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise SettingsError(f"{setting} = {address!r}: write HOST:PORT with a port from 0 to 65535, for example 127.0.0.1:0")
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_address(text: str) -> bool:
    """Whether it is one at all; `addresses_are_distinct` says why not."""
    try:
        split_address(text, "")
    except SettingsError:
        return False
    return True


def tls_is_whole(endpoints: "EndpointsSection") -> Problems:
    named, missing = _named_and_missing("endpoints.tls", endpoints.tls, ("certificate_file", "key_file", "authority_file"))
    if not named or not missing:
        return []
    return [f"{named} without {missing}: each side shows a certificate and checks the other's, so name all three files, or none of them"]


def servers_are_guarded(endpoints: "EndpointsSection") -> Problems:
    if endpoints.insecure or endpoints.tls.files:
        return []
    listening = {name: endpoints.listen(name) for name in SERVICES if name != "gateway"}
    reached = {name: address for name, address in listening.items() if _is_address(address) and not is_loopback(address)}
    if not reached:
        return []
    return [
        f"the gRPC server{'s' if len(reached) > 1 else ''} of {', '.join(reached)} would listen where other machines reach them "
        f"({', '.join(dict.fromkeys(reached.values()))}), and answer whoever asks: name certificates in endpoints.tls, listen on "
        "127.0.0.1, or set endpoints.insecure=true in a network that holds nobody but the run"
    ]


def queue_login_is_usable(queue: "QueueSection") -> Problems:
    """User, password and certificates of Redis."""
    problems: Problems = []
    tls, secure = queue.tls, queue.url.startswith("rediss://")
    if without_password(queue.url) != queue.url:
        problems.append(
            f"queue.url = {without_password(queue.url)!r} holds a password, which logs and process lists would show: write it into a file "
            "that only this user can read, name that in queue.password_file, and leave it out of the address"
        )
    if queue.username and queue.password_file is None:
        problems.append(f"queue.username = {queue.username!r} without queue.password_file: name the file with that user's password")
    if queue.username and queue.url == "embedded":
        problems.append(f'queue.username = {queue.username!r} with queue.url = "embedded": the run\'s own Redis has no users; leave it out')
    if tls.files and not secure:
        shown = ", ".join(f"queue.tls.{name} = {path}" for name, path in tls.files.items())
        problems.append(
            f"{shown} with queue.url = {without_password(queue.url)!r}, which does not encrypt: begin the address with rediss://, or leave "
            "them out"
        )
    named, missing = _named_and_missing("queue.tls", tls, ("certificate_file", "key_file"))
    if named and missing:
        problems.append(f"{named} without {missing}: a certificate is shown with its key, so name both files, or neither")
    if tls.files and "ssl_" in queue.url.partition("?")[2]:
        problems.append(f"queue.url = {queue.url!r} has ssl_ options beside queue.tls: give the files in one of the two places")
    return problems


def _named_and_missing(prefix: str, tls: "TlsSection", wanted: tuple[str, ...]) -> tuple[str, str]:
    """Of the files that belong together: those that are named, with their values, and those that are not."""
    named = [f"{prefix}.{name} = {tls.files[name]}" for name in wanted if name in tls.files]
    return ", ".join(named), ", ".join(f"{prefix}.{name}" for name in wanted if name not in tls.files)


def store_address_holds_no_secret(store: "StoreSection") -> Problems:
    return _secret_in("store.url", store.url)


def _secret_in(setting: str, address: str) -> Problems:
    if not holds_secret(address):
        return []
    return [
        f"{setting} = {without_password(address)!r} holds a secret, which logs would show: leave it out, and put it where the store's "
        "client looks for it (for s3:// the file that AWS_SHARED_CREDENTIALS_FILE names)"
    ]


def queue_address_is_usable(queue: "QueueSection") -> Problems:
    problem = "" if queue.url == "embedded" else queue_url_problem(queue.url)
    return [problem] if problem else []


def payload_store_is_usable(payloads: "PayloadsSection") -> Problems:
    store, directory = payloads.store, payloads.directory
    if problems := _secret_in("payloads.store", store):
        return problems
    shown = f"payloads.store = {store!r}"
    if store == "redis" or (directory is not None and directory.is_absolute()):
        return []
    if directory is not None:
        return [f'{shown}: write "redis", the absolute path of a directory (services may start in other folders), or a URL such as s3://']
    scheme, _, place = store.partition("://")
    if scheme == "memory" or not place:
        return [f"{shown}: all services must see one store; name a place that they share, for example s3://BUCKET/FOLDER"]
    try:
        from fsspec import available_protocols
    except ImportError:
        return []
    known = available_protocols()
    return [] if scheme in known else [f"{shown}: unknown kind of URL {scheme!r}; kinds are {', '.join(sorted(known))}"]


SHARED_RULES: tuple[Rule, ...] = (
    siblings_to_compare_with,
    overlong_buffer_fits,
    versions_are_kept,
    attention_fits_dtype,
    tasks_are_named,
    addresses_are_distinct,
    tls_is_whole,
    servers_are_guarded,
    collector_is_named,
    metrics_ports_are_free_of_services,
    queue_address_is_usable,
    queue_login_is_usable,
    store_address_holds_no_secret,
    payload_store_is_usable,
)
"""Rules about sections that several services read."""
