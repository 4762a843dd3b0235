"""What an address of Redis may look like. Pure, so that settings can be checked where no client is installed."""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = ("redis", "rediss", "unix")
PORTS = range(1, 65_536)
NUMBERS = ("db", "health_check_interval")
SECURE = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
"""Options of rediss:// alone."""
OPTIONS = (*NUMBERS, "client_name", *SECURE)
"""Options after the question mark. Whatever else the client knows would change how the queue itself speaks to Redis."""
CHOICES = {
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": ("true", "false"),
}


def queue_url_problem(url: str) -> str:
    """Why queue.url cannot be an address of Redis, with the rule and the remedy; empty if it can. Never shows a password in it."""
    shown = f"queue.url = {without_password(url)!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"{shown}: {_port_or(error)}"
    if parts.scheme not in SCHEMES or not url.startswith(f"{parts.scheme}://"):
        return f'{shown}: write "embedded", or an address that begins with redis://, rediss:// or unix://'
    if port == 0:
        return f"{shown}: {_port_or(None)}"
    options = parse_qsl(parts.query, keep_blank_values=True)
    problems = [
        _place_problem(parts.scheme, parts.hostname, unquote(parts.path)),
        *(_option_problem(parts.scheme, *given) for given in options),
    ]
    problem = next(filter(None, problems), "")
    return f"{shown}: {problem}" if problem else ""


SECRET_OPTION = re.compile(r"([?&][^=&]*(?:password|passwd|secret|token|credential|api_?key|access_?key)[^=&]*=)[^&]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """The address with *** in place of passwords, also where it is malformed."""
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    shown = f"{scheme}{separator}{user}:***@{place}" if at and colon else url
    return SECRET_OPTION.sub(r"\1***", shown)


def holds_secret(url: str) -> bool:
    """Whether an address of any kind has a password before its host, or a secret among its options."""
    try:
        return bool(urlsplit(url).password or SECRET_OPTION.search(url))
    except ValueError:
        return without_password(url) != url


def _port_or(error: ValueError | None) -> str:
    if error is None or "ort " in str(error):
        return f"the port must be a number from {PORTS.start} to {PORTS.stop - 1}, for example redis://127.0.0.1:6379"
    return f"it is no address ({error}): write for example redis://127.0.0.1:6379"


def _place_problem(scheme: str, host: str | None, path: str) -> str:
    if scheme == "unix":
        return "" if host is None and path else "write the absolute path of the socket, for example unix:///run/redis.sock"
    number = path.removeprefix("/")
    return f"the part after the address must be the number of a database, not {number!r}: leave it out for 0" if _wrong(number) else ""


def _option_problem(scheme: str, name: str, value: str) -> str:
    if name not in OPTIONS:
        return f"unknown option {name!r}; options are {', '.join(OPTIONS)}"
    if name in SECURE and scheme != "rediss":
        return f"the option {name} needs an encrypted connection: begin the address with rediss://, or leave the option out"
    if name in NUMBERS and (_wrong(value) or not value):
        return f"the option {name} = {value!r} must be a whole number"
    if not value:
        return f"the option {name} has no value: give it one, or leave it out"
    if name in CHOICES and value.lower() not in CHOICES[name]:
        return f"the option {name} = {value!r} must be one of {', '.join(CHOICES[name])}"
    return ""


def _wrong(number: str) -> bool:
    """Whether a text that may be left out is no number."""
    return number != "" and not (number.isascii() and number.isdigit())
