"""An address of Redis is refused for what can be seen in it, in one sentence, and never with its password."""

import pytest

from oprime.runtime.queue_url import queue_url_problem, without_password


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost/",
        "redis://localhost:6379/15",
        "redis://[::1]:6379/0",
        "redis://:secret@localhost:6379?db=3",
        "rediss://user:secret@redis.example:6380/0?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
        "rediss://redis.example?ssl_cert_reqs=none",
        "unix:///run/redis.sock",
        "unix:///run/redis%20one/redis.sock?db=2&client_name=worker",
    ],
)
def test_addresses_that_can_be_used(url: str) -> None:
    assert queue_url_problem(url) == ""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://x", 'write "embedded", or an address that begins with redis://, rediss:// or unix://'),
        ("localhost:6379", 'write "embedded"'),
        ("redis:localhost", 'write "embedded"'),
        ("", 'write "embedded"'),
        ("redis://localhost:0", "the port must be a number from 1 to 65535"),
        ("redis://localhost:65536", "the port must be a number from 1 to 65535"),
        ("redis://localhost:port", "the port must be a number from 1 to 65535"),
        ("redis://[::1", "it is no address"),
        ("redis://localhost/one", "must be the number of a database, not 'one'"),
        ("redis://localhost/0/1", "must be the number of a database, not '0/1'"),
        ("redis://localhost/-1", "must be the number of a database, not '-1'"),
        ("redis://localhost?db=one", "the option db = 'one' must be a whole number"),
        ("redis://localhost?db=", "the option db = '' must be a whole number"),
        ("redis://localhost?health_check_interval=soon", "health_check_interval = 'soon' must be a whole number"),
        ("redis://localhost?decode_responses=yes", "unknown option 'decode_responses'; options are db,"),
        ("redis://localhost?socket_timeout=1", "unknown option 'socket_timeout'"),
        ("redis://localhost?typo=1", "unknown option 'typo'"),
        ("redis://localhost?ssl_ca_certs=/etc/ca.pem", "begin the address with rediss://"),
        ("rediss://localhost?ssl_ca_certs=", "the option ssl_ca_certs has no value"),
        ("rediss://localhost?ssl_cert_reqs=maybe", "must be one of required, optional, none"),
        ("unix://run/redis.sock", "write the absolute path of the socket"),
        ("unix://", "write the absolute path of the socket"),
    ],
)
def test_what_is_wrong_is_named_with_the_setting_and_the_remedy(url: str, said: str) -> None:
    problem = queue_url_problem(url)
    assert problem.startswith(f"queue.url = {url!r}: ")
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@localhost:1/0", "redis://:***@localhost:1/0"),
        ("redis://user:secret@localhost", "redis://user:***@localhost"),
        ("redis://user@localhost", "redis://user@localhost"),
        ("redis://:sec/ret?@localhost:1", "redis://:***@localhost:1"),
        ("redis://localhost?db=1&password=secret&x=2", "redis://localhost?db=1&password=***&x=2"),
        ("rediss://localhost?ssl_password=secret", "rediss://localhost?ssl_password=***"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert "secret" not in queue_url_problem(f"{url}&unknown=1" if "?" in shown else f"{url}?unknown=1")
