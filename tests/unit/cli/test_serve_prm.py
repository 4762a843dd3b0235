"""What `oprime serve prm` makes of its command line."""

import contextlib
import json
import re
import shlex
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from oprime.runtime.errors import OprimeError, SettingsError
from oprime.runtime.free_ports import held
from oprime_cli.main import main
from oprime_cli.running.devices import Gpu
from oprime_cli.running.failures import ServiceNotHealthyError, ServiceRefusedError
from oprime_cli.running.serve_prm import Wishes, checked, folder, ready_lines, scorers_apart, settings_of, specs
from oprime_gateway.app import listen
from oprime_gateway.config import GatewaySettings
from oprime_prm.config import ScorerSettings


def settings(tmp_path: Path, *, has_gpu: bool = False, **wishes: object) -> tuple[ScorerSettings, GatewaySettings]:
    document = settings_of(Wishes(**wishes), tmp_path, has_gpu=has_gpu)  # pyright: ignore[reportArgumentType]
    document["endpoints"]["scorers"] = [f"127.0.0.1:{7000 + number}" for number in range(document["scoring"]["replicas"])]
    return checked(document)


def test_a_model_and_its_reference_are_version_0_of_no_run(tmp_path: Path) -> None:
    scorer, gateway = settings(tmp_path, model="Owner/prm", reference="Owner/start", beta=0.1, port=9)
    assert (scorer.model.path, scorer.prm.reference_model, scorer.prm.beta) == ("Owner/prm", "Owner/start", 0.1)
    assert (scorer.model.dtype, scorer.scoring.device, scorer.scoring.version) == ("float32", "auto", None)
    assert (gateway.endpoints.gateway, gateway.gateway.rewards_only) == ("127.0.0.1:9", True)
    lines = ready_lines(scorer, gateway)
    assert lines[0] == "token rewards of Owner/prm at http://127.0.0.1:9; reference: Owner/start; stop with Ctrl-C"


def test_a_model_that_is_its_own_reference_is_warned_of(tmp_path: Path) -> None:
    assert "every reward is 0" in ready_lines(*settings(tmp_path, model="Owner/prm"))[0]


def test_gpus_compute_in_bfloat16_unless_told_otherwise(tmp_path: Path) -> None:
    assert settings(tmp_path, model="m", has_gpu=True)[0].model.dtype == "bfloat16"
    assert settings(tmp_path, model="m", has_gpu=True, dtype="float32")[0].model.dtype == "float32"


def test_replicas_have_a_port_each_and_take_gpus_in_turn(tmp_path: Path) -> None:
    scorer, gateway = settings(tmp_path, model="Owner/m", replicas=3, overrides=["scoring.threads=5"])
    found = specs(scorer, gateway, tmp_path / "c.toml", [Gpu("0", 0), Gpu("1", 0)], offline=False)
    assert [spec.name for spec in found] == ["scorer-0", "scorer-1", "scorer-2", "gateway"]
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in found] == ["0", "1", "0", ""]
    assert [spec.env["OMP_NUM_THREADS"] for spec in found] == ["5", "5", "5", "1"]
    assert [spec.env.get("OPRIME_SCORER") for spec in found] == ["0", "1", "2", None]
    assert all("HF_HUB_OFFLINE" not in spec.env for spec in found)


def test_a_single_process_is_gateway_and_scorer_in_one(tmp_path: Path) -> None:
    (only,) = specs(
        *settings(tmp_path, model="Owner/m", overrides=["scoring.threads=3"]),
        tmp_path / "c.toml",
        [Gpu("0", 0), Gpu("1", 0)],
        offline=False,
    )
    assert only.argv[1:3] == ("-m", "oprime_cli.running.serve_alone")
    assert (only.env["CUDA_VISIBLE_DEVICES"], only.env["OMP_NUM_THREADS"]) == ("0", "3")


def test_replicas_that_share_a_port_are_gateways_too_and_have_no_port_of_their_own(tmp_path: Path) -> None:
    scorer, gateway = settings(tmp_path, model="Owner/m", replicas=3, share_port=True, overrides=["endpoints.metrics_port=9464"])
    found = specs(scorer, gateway, tmp_path / "c.toml", [Gpu("0", 0), Gpu("1", 0)], offline=False)
    assert [(spec.name, spec.argv[2]) for spec in found] == [(f"scorer-{number}", "oprime_cli.running.serve_alone") for number in range(3)]
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in found] == ["0", "1", "0"]
    assert [spec.env["OPRIME_METRICS_PORT"] for spec in found] == ["9464", "9465", "9466"]
    assert gateway.gateway.share_port


@pytest.mark.parametrize(("replicas", "share_port", "apart"), [(1, False, 0), (3, False, 3), (3, True, 0)])
def test_processes_behind_a_gateway_have_a_port_each(tmp_path: Path, replicas: int, share_port: bool, apart: int) -> None:
    assert scorers_apart(settings_of(Wishes(model="m", replicas=replicas, share_port=share_port), tmp_path, has_gpu=False)) == apart


def test_passes_are_smaller_on_a_cpu_unless_settings_say_otherwise(tmp_path: Path) -> None:
    assert settings(tmp_path, model="m")[0].scoring.micro_batch_tokens == 1024
    assert settings(tmp_path, model="m", has_gpu=True)[0].scoring.micro_batch_tokens == 4096
    assert settings(tmp_path, model="m", overrides=["scoring.micro_batch_tokens=77"])[0].scoring.micro_batch_tokens == 77


def test_metrics_of_several_processes_have_ports_that_follow_each_other(tmp_path: Path) -> None:
    wishes = {"model": "m", "replicas": 2, "overrides": ["endpoints.metrics_port=9464"]}
    found = specs(*settings(tmp_path, **wishes), tmp_path / "c.toml", [], offline=True)
    # The gateway has the one of the settings.
    assert [spec.env.get("OPRIME_METRICS_PORT") for spec in found] == ["9465", "9466", None]
    assert [spec.env.get("HF_HUB_OFFLINE") for spec in found] == ["1", "1", None]


def test_an_ipv6_host_is_written_in_brackets(tmp_path: Path) -> None:
    assert settings(tmp_path, model="m", host="::1")[1].endpoints.gateway == "[::1]:8080"


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({}, "serve what"),
        ({"run": "a", "model": "b"}, "the run a or the model b\\? Name one or the other"),
        ({"model": "/nope"}, "--model /nope: there is no such directory, and it is no hub id"),
        ({"model": "m", "reference": "./nope"}, "--reference ./nope: there is no such directory, and it is no hub id"),
        ({"run": "nowhere@5"}, "no run nowhere"),
        ({"model": "m", "replicas": 0}, "--replicas 0"),
        ({"model": "m", "share_port": True}, "--share-port: one replica has nobody"),
        ({"model": "m", "host": "192.0.2.1"}, "without keys"),
        ({"model": "m", "beta": -1.0}, "prm.beta"),
        ({"model": "m", "overrides": ["scoring.share=2"]}, "scoring.share"),
        ({"model": "m", "overrides": ["scoring.shares=1"]}, "unknown setting scoring.shares"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, wishes: dict[str, Any], says: str) -> None:
    with pytest.raises(OprimeError, match=says):
        settings(tmp_path, **wishes)


@contextlib.contextmanager
def taken(*, shared: bool = False) -> Generator[str, None, None]:
    """An address at which a gateway listens."""
    with contextlib.closing(listen("127.0.0.1:0", 30, shared=shared)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("options", [(), ("--replicas", "2"), ("--replicas", "2", "--share-port")])
def test_a_port_that_others_have_is_refused_before_anything_is_started(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with taken(shared="--share-port" in options) as address:
        port = address.rpartition(":")[2]
        assert main(["serve", "prm", "--model", "Owner/prm", "--device", "cpu", "--port", port, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"port {port} is taken: another process listens on {address}, or is about to; stop that one, or choose another --port" in err


@pytest.mark.parametrize("words", [("prm", "--model", "Owner/prm", "--device", "cpu", "--port"), ("verifier", "--listen")])
def test_of_two_that_begin_together_only_one_has_the_port(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with taken() as address:
        pass
    # The first has looked at its port, and does not listen there yet.
    with held(address, "endpoints.gateway", ""):
        assert main(["serve", *words, address.rpartition(":")[2] if words[0] == "prm" else address.replace("127.0.0.1", "localhost")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "or is about to; stop that one, or choose another" in err


@pytest.mark.parametrize(("words", "before"), [(("prm", "--model", "Owner/prm", "--replicas", "2", "--port", "0"), 2), (("verifier",), 0)])
def test_a_port_for_metrics_that_others_have_is_refused_too(
    words: tuple[str, ...], before: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with taken() as address:
        port = int(address.rpartition(":")[2])
        at = ("--listen", "127.0.0.1:0") if words == ("verifier",) else ("--device", "cpu")
        # Of several processes the last has the taken one.
        assert main(["serve", *words, *at, "--set", f"endpoints.metrics_port={port - before}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"port \d+ is taken: .*; choose another endpoints.metrics_port, or 0 for none", err)


def test_a_verifier_does_not_say_that_it_is_where_another_is(capsys: pytest.CaptureFixture[str]) -> None:
    with taken() as address:
        assert main(["serve", "verifier", "--listen", address]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is taken" in err
    assert "choose another port with --listen" in err


def test_a_free_port_is_not_refused_and_an_address_of_elsewhere_is_not_called_taken() -> None:
    with taken() as address:
        pass
    for free in (address, address, "127.0.0.1:0"):
        with held(free, "endpoints.gateway", "choose another"), contextlib.closing(listen(free, 30)):
            pass
    with (
        pytest.raises(SettingsError, match=r"this machine cannot listen on 192\.0\.2\.1:80: .*; choose another"),
        held("192.0.2.1:80", "endpoints.gateway", "choose another"),
    ):
        pass


@pytest.mark.parametrize("text", ["the-first-key-of-two\nsecond\n", "# for the team\n\n  # indented\nthe-first-key-of-two\nsecond"])
def test_the_example_sends_the_first_key_of_the_file(tmp_path: Path, text: str) -> None:
    keys = tmp_path / "the team's keys"
    keys.write_text(text, encoding="utf-8")
    example = ready_lines(*settings(tmp_path, model="Owner/prm", reference="Owner/start", api_keys_file=keys))[-1]
    header = re.search(r'-H ("Authorization: .*\)") -H', example)
    assert header is not None, example
    said = subprocess.run(["sh", "-c", f"printf %s {header[1]}"], capture_output=True, text=True, check=True).stdout
    assert said == "Authorization: Bearer the-first-key-of-two"


def example_in(lines: list[str]) -> dict[str, Any]:
    """The input that the last line's `curl` sends."""
    (one,) = json.loads(shlex.split(lines[-1])[-1])["inputs"]
    return one


def test_the_example_of_a_run_is_what_it_sampled_last_and_of_a_model_any_question(tmp_path: Path) -> None:
    scorer, gateway = settings(tmp_path, model="Owner/prm", reference="Owner/start")
    simple = {"prompt": "1+1?", "response": "2"}
    assert example_in(ready_lines(scorer, gateway)) == simple
    samples = scorer.run.folder / "samples"
    samples.mkdir(parents=True)
    for step, prompt in ((2, "2 +3 ?"), (10, "it's\n4 -1 ?")):
        rollouts = [{"response": response} for response in ("", "=3 #3 #3", "=3 #3")]
        (samples / f"step-{step:06d}.jsonl").write_text(json.dumps({"prompt": prompt, "rollouts": rollouts}) + "\n", encoding="utf-8")
    assert example_in(ready_lines(scorer, gateway)) == {"prompt": "it's\n4 -1 ?", "response": "=3 #3", "raw": True}
    for unfit in ("", "{}", json.dumps({"prompt": "p", "rollouts": []}), json.dumps({"prompt": "p" * 2000, "rollouts": rollouts})):
        (samples / "step-000011.jsonl").write_text(unfit, encoding="utf-8")
        assert example_in(ready_lines(scorer, gateway)) == simple


def test_the_example_has_no_key_where_none_is_asked_for(tmp_path: Path) -> None:
    assert "Authorization" not in ready_lines(*settings(tmp_path, model="Owner/prm"))[-1]


@pytest.mark.parametrize(
    ("name", "near"), [("models/prn", " (did you mean models/prm?)"), ("model/prm", " (did you mean models/prm?)"), ("Owner/prm", "")]
)
@pytest.mark.parametrize("option", ["--model", "--reference"])
def test_a_model_that_is_neither_here_nor_on_the_hub_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, near: str, option: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/prm").mkdir(parents=True)
    others = ("--model", "models/prm") if option == "--reference" else ()
    assert main(["serve", "prm", *others, option, name, "--device", "cpu", "--port", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"oprime: {name} is no directory here{near}, and the model hub does not give it (it cannot be reached from here, or HF_HUB_OFFLINE "
        "is set, and the model was not fetched before): check the name, or download it and give its directory\n"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read: No such file or directory; write it, for this user alone (chmod 600), or name another file"),
        ("short\n", "key 1 is shorter than 16 characters"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_before_anything_is_started(
    tmp_path: Path, text: str | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    if text is not None:
        keys.write_text(text, encoding="utf-8")
    words = ("serve", "prm", "--model", "Owner/prm", "--device", "cpu", "--port", "0", "--api-keys-file", str(keys))
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"gateway.api_keys_file ({keys})" in said
    assert says in said
    assert "its log" not in said


@pytest.mark.parametrize(
    ("failure", "stays"), [(ServiceRefusedError, True), (ServiceNotHealthyError, True), (SettingsError, False), (KeyboardInterrupt, False)]
)
def test_logs_stay_where_an_error_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException], stays: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def serve() -> None:
        with folder() as place:
            (place / "scorer.log").touch()
            raise failure("its log says why")

    with pytest.raises(failure):
        serve()
    assert [path.name for path in tmp_path.rglob("*.log")] == ["scorer.log"] * stays


def test_a_folder_that_nobody_needs_any_more_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with folder() as place:
        assert place.parent == tmp_path
    assert list(tmp_path.iterdir()) == []
