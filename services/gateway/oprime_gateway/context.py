"""What every route works with, and what it checks first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import Request

from oprime.runtime.setting_rules import NO_PRM
from oprime_gateway.config import GatewaySettings
from oprime_gateway.measure import Scrape
from oprime_gateway.problems import ProblemError
from oprime_gateway.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What the routes work with."""

    settings: GatewaySettings
    services: Services
    metrics: Scrape
    of_run: Callable[[], Scrape]
    """A new page for what the coordinator says."""
    keys: Sequence[str] = ()
    index_directory: Path | None = None
    """Where indexes of runs lie; in this user's cache if None."""


def gateway_of(request: Request) -> Gateway:
    return request.app.state.gateway


def scoring_gateway(request: Request, count: int) -> Gateway:
    """The gateway, where it can give rewards for so many inputs. Raises ProblemError: 404 without a PRM, 413 for too many."""
    gateway = gateway_of(request)
    if not gateway.settings.algorithm.needs_prm:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"{NO_PRM}, so nothing gives process rewards")
    check_count(gateway, count)
    return gateway


def check_count(gateway: Gateway, count: int) -> None:
    most = gateway.settings.gateway.max_request_items
    if count > most:
        detail = f"{count} inputs exceed {most} (gateway.max_request_items): send them in several requests"
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
