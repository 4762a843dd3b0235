from pathlib import Path

import pytest

from oprime.runtime.errors import SettingsError
from oprime_gateway.auth import load_keys
from oprime_gateway.config import is_loopback

LONG = "k" * 32


@pytest.mark.parametrize("address", ["127.0.0.1:80", "127.8.9.1:0", "localhost:8080", "[::1]:80"])
def test_loopback_needs_no_keys(address: str) -> None:
    assert is_loopback(address)
    assert load_keys(None, address) == ()


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "gateway:80", ":80", "127.0.0.1.example.org:80"])
def test_other_addresses_do(address: str) -> None:
    with pytest.raises(SettingsError, match=r"set gateway\.api_keys_file"):
        load_keys(None, address)


def test_keys_are_lines_and_comments_are_not(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# for the trainer\n{LONG}\n\n  {LONG}2  \n", encoding="utf-8")
    assert load_keys(path, "0.0.0.0:80") == (LONG, f"{LONG}2")


@pytest.mark.parametrize(
    ("text", "fault"), [("", "is empty"), ("# only a comment\n", "has no key"), ("short\n", "key 1 is shorter than 16")]
)
def test_a_file_without_good_keys_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=fault):
        load_keys(path, "127.0.0.1:80")


def test_a_file_that_cannot_be_read_is_refused_even_on_loopback_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\) cannot be read: No such file or directory; write it, .* or name another file"):
        load_keys(tmp_path / "absent", "127.0.0.1:80")
    with pytest.raises(SettingsError, match=r"cannot be read: Is a directory; name a file"):
        load_keys(tmp_path, "127.0.0.1:80")
    (tmp_path / "latin").write_bytes(b"\xe9" * 20)
    with pytest.raises(SettingsError, match=r"latin\) is no text in UTF-8 .*: write one key per line"):
        load_keys(tmp_path / "latin", "127.0.0.1:80")
