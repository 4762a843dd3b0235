"""Where secrets may be, and who may listen without any."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from oprime.runtime import secret_files
from oprime.runtime.errors import SettingsError
from oprime.runtime.queue_url import holds_secret
from oprime.runtime.secret_files import others_can_read, read_secret, refuse_secrets_in
from oprime.runtime.setting_rules import queue_login_is_usable, servers_are_guarded, store_address_holds_no_secret, tls_is_whole
from oprime.runtime.settings import EndpointsSection, PayloadsSection, QueueSection, StoreSection, TlsSection
from oprime_cli.main import main
from oprime_verifier.config import VerifierSettings
from oprime_verifier.external.settings import GrpcSection, WebhookSection

FILES = {"certificate_file": "a.crt", "key_file": "a.key", "authority_file": "ca.crt"}


# Addresses


@pytest.mark.parametrize(
    "address",
    ["redis://:hidden@redis", "redis://user:hidden@redis:6379/0", "https://host/path?api_key=hidden", "s3://bucket/a?secret=hidden"],
)
def test_a_secret_in_an_address_is_found(address: str) -> None:
    assert holds_secret(address)


@pytest.mark.parametrize("address", ["redis://user@redis", "s3://bucket/step:3@latest", "https://host/?page=2", "/a:b@c", ""])
def test_an_address_without_one_is_none(address: str) -> None:
    assert not holds_secret(address)


def login(**queue: Any) -> list[str]:
    return queue_login_is_usable(QueueSection(**queue))


@pytest.mark.parametrize(
    ("queue", "said"),
    [
        ({"url": "redis://:hidden@redis"}, "queue.url = 'redis://:***@redis' holds a password"),
        ({"url": "rediss://redis?ssl_password=hidden"}, "queue.url = 'rediss://redis?ssl_password=***' holds a password"),
        ({"url": "redis://redis", "username": "prm"}, "queue.username = 'prm' without queue.password_file"),
        ({"username": "prm", "password_file": "file"}, "the run's own Redis has no users"),
        (
            {"url": "redis://redis", "tls": {"authority_file": "ca.crt"}},
            "queue.tls.authority_file = ca.crt with queue.url = 'redis://redis'",
        ),
        (
            {"url": "rediss://redis", "tls": {"certificate_file": "a.crt"}},
            "queue.tls.certificate_file = a.crt without queue.tls.key_file: a certificate is shown with its key",
        ),
        ({"url": "rediss://redis?ssl_ca_certs=/x", "tls": {"authority_file": "ca.crt"}}, "in one of the two places"),
    ],
)
def test_a_login_that_cannot_be_right_is_refused_with_its_remedy(queue: dict[str, Any], said: str) -> None:
    (problem,) = login(**queue)
    assert said in problem
    assert "hidden" not in problem


@pytest.mark.parametrize(
    "queue",
    [
        {},
        {"url": "redis://redis", "password_file": "file"},
        {"url": "redis://redis", "username": "{service}", "password_file": "secrets/{service}"},
        {"url": "rediss://redis"},
        {"url": "rediss://redis", "tls": {"authority_file": "ca.crt"}},
        {"url": "rediss://redis", "tls": FILES},
    ],
)
def test_a_whole_login_is_accepted(queue: dict[str, Any]) -> None:
    assert login(**queue) == []


def test_stores_and_webhooks_hold_no_secret_in_their_addresses_either() -> None:
    address = "s3://key:hidden@bucket/weights"
    problems = [
        *store_address_holds_no_secret(StoreSection(url=address)),
        *next(rule for rule in VerifierSettings.rules if rule.__name__ == "payload_store_is_usable")(PayloadsSection(store=address)),
    ]
    assert [problem.partition(" = ")[0] for problem in problems] == ["store.url", "payloads.store"]
    assert not [problem for problem in problems if "hidden" in problem]
    with pytest.raises(ValueError, match=r"holds a secret.*bearer_file or secret_file"):
        WebhookSection(url="https://user:word@judge/verify")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"queue": {"password": "hidden"}}, "unknown setting queue.password: secrets come from files, so name one in queue.password_file"),
        ({"verifier": {"webhooks": {"judge": {"url": "https://user:hidden@judge"}}}}, "holds a secret"),
        ({"verifier": {"webhooks": {"judge": {"url": "https://judge/?token=hidden"}}}}, "holds a secret"),
    ],
)
def test_a_secret_at_the_wrong_place_is_refused_and_not_shown(section: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)) as caught:
        VerifierSettings.from_document({"run": {"name": "one", "steps": 1}, **section}, origin="x.toml")
    assert "hidden" not in str(caught.value)


def test_a_service_logs_in_as_itself_and_the_command_line_leaves_that_open() -> None:
    document = {
        "run": {"name": "one", "steps": 1},
        "queue": {"url": "redis://redis", "username": "run-{service}", "password_file": "secrets/{service}"},
    }
    queue = VerifierSettings.from_document(document, origin="x.toml").queue
    assert (queue.username, queue.password_file) == ("run-verifier", Path("secrets/verifier"))


# Files


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users of this machine can look into."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def file_in(folder: Path, mode: int) -> Path:
    path = folder / f"password-{mode:o}"
    path.write_text("word\n", encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_file_that_others_can_read_is_warned_of_once(open_folder: Path) -> None:
    path = file_in(open_folder, 0o644)
    with structlog.testing.capture_logs() as logs:
        for read in (path, path, file_in(open_folder, 0o600), file_in(open_folder, 0o640)):
            assert read_secret(read, "queue.password_file") == b"word"
    (warning,) = logs
    assert warning["log_level"] == "warning"
    assert [warning[name] for name in ("event", "setting", "file", "remedy")] == [
        "secret_is_open",
        "queue.password_file",
        str(path),
        "chmod 600",
    ]


def test_a_folder_that_is_closed_to_others_closes_its_files(open_folder: Path) -> None:
    path = file_in(open_folder, 0o644)
    open_folder.chmod(0o700)
    assert not others_can_read(path)


def test_what_a_container_mounts_is_for_the_platform_to_close(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_in(open_folder, 0o444)
    assert others_can_read(path)
    monkeypatch.setattr(secret_files, "MOUNTED", open_folder)
    assert not others_can_read(path)


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read: No such file"), (" \n", "is empty")])
def test_a_secret_that_is_none_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"queue.password_file \({path}\) {said}"):
        read_secret(path, "queue.password_file")


# The environment


@pytest.mark.parametrize("name", ["OPRIME_QUEUE_PASSWORD", "OPRIME_API_KEYS", "oprime_token"])
def test_a_secret_in_the_environment_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"holds {name}: oprime takes secrets from files alone.*queue.password_file") as caught:
        refuse_secrets_in({name: "hidden"})
    assert "hidden" not in str(caught.value)


def test_other_variables_are_nobody_s_business() -> None:
    refuse_secrets_in(
        {"OPRIME_DEBUG": "1", "OPRIME_MODEL": "m", "OPRIME_QUEUE_PASSWORD": "", "HF_TOKEN": "x", "OPRIME_MAX_TOKENS_PER_STEP": "1"}
    )


def test_services_and_commands_refuse_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPRIME_QUEUE_PASSWORD", "hidden")
    assert main(["version"]) == 2
    assert "OPRIME_QUEUE_PASSWORD" in capsys.readouterr().err
    command = [sys.executable, "-m", "oprime_gateway", "absent.toml"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy(), check=False)
    assert result.returncode == 2
    assert "OPRIME_QUEUE_PASSWORD" in result.stdout + result.stderr
    assert "hidden" not in result.stdout + result.stderr


# Servers


@pytest.mark.parametrize(
    "endpoints",
    [
        {},
        {"prm": "localhost:7001", "bind": "127.0.0.1"},
        {"bind": "0.0.0.0", "insecure": True},  # noqa: S104 - a setting
        {"bind": "0.0.0.0", "tls": FILES},  # noqa: S104 - a setting
        {"gateway": "0.0.0.0:80"},
    ],
)
def test_servers_that_are_guarded_or_reached_from_here_alone_may_listen(endpoints: dict[str, Any]) -> None:
    assert servers_are_guarded(EndpointsSection(**endpoints)) == []


@pytest.mark.parametrize(
    ("endpoints", "said"),
    [
        ({"prm": "0.0.0.0:7001"}, "the gRPC server of prm would listen where other machines reach them (0.0.0.0:7001)"),
        ({"learner": "10.0.0.7:7001"}, "the gRPC server of learner would listen"),
        ({"bind": "::"}, "the gRPC servers of coordinator, generator, verifier, prm, learner would listen"),
    ],
)
def test_a_server_that_anybody_could_use_is_refused(endpoints: dict[str, Any], said: str) -> None:
    (problem,) = servers_are_guarded(EndpointsSection(**endpoints))
    assert problem.startswith(said)
    assert problem.endswith(
        "name certificates in endpoints.tls, listen on 127.0.0.1, or set endpoints.insecure=true in a network that holds nobody but the run"
    )


@pytest.mark.parametrize(("left_out", "named"), [("key_file", "endpoints.tls.certificate_file = a.crt"), ("certificate_file", "a.key")])
def test_half_of_mtls_is_refused(left_out: str, named: str) -> None:
    files = {name: path for name, path in FILES.items() if name != left_out}
    (problem,) = tls_is_whole(EndpointsSection(tls=TlsSection(**files)))  # pyright: ignore[reportArgumentType]
    assert named in problem
    assert f"without endpoints.tls.{left_out}: each side shows a certificate" in problem


@pytest.mark.parametrize(
    "tls", [{"certificate_file": "a.crt", "authority_file": "ca.crt"}, {"certificate_file": "a.crt", "key_file": "a.key"}]
)
def test_a_verifier_elsewhere_needs_whole_certificates(tls: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"name tls.authority_file, and tls.certificate_file and tls.key_file together or neither"):
        GrpcSection(address="judge:1", tls=tls)  # pyright: ignore[reportArgumentType]
