"""Finds a plug-in that the settings name and makes it a verifier. Nothing that is not named there is ever imported."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, get_args

from pydantic import ValidationError

from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime.runtime.errors import SettingsError
from oprime.runtime.plugins import load_attribute
from oprime.runtime.settings import describe
from oprime_verifier.external.results import Scale
from oprime_verifier.external.settings import PluginSection, Style
from oprime_verifier.external.signatures import Adaptation, AsyncLoop, adapt
from oprime_verifier.ports import VerifierDescription

GROUP = "oprime.verifiers"
"""Group of entry points that a distribution can offer verifiers in."""
STYLE_MARK = "@"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A loaded plug-in."""

    name: str
    verify: Callable[[VerificationRequest], Outcome]
    version: str
    description: str
    close: Callable[[], None]
    """Ends what its coroutines left on their event loop."""


class BrokenVerifier:
    """Stands for a verifier that cannot be used, so that `Describe` says why and the others work."""

    def __init__(self, name: str, problem: str) -> None:
        self._name = name
        self._problem = problem

    async def verify(self, request: VerificationRequest) -> Outcome:
        return unscored(Verdict.INFRA_ERROR, f"verifier {self._name} cannot be used: {self._problem}", cacheable=False)

    def describe(self) -> VerifierDescription:
        return VerifierDescription(name=self._name, problem=self._problem)

    async def close(self) -> None:
        """Nothing to close."""


def plugin_section(settings: str | Mapping[str, Any] | PluginSection, name: str) -> PluginSection:
    """[verifier.plugins.NAME], or NAME = "module:attribute". Raises SettingsError."""
    if isinstance(settings, PluginSection):
        return settings
    try:
        return PluginSection.model_validate({"target": settings} if isinstance(settings, str) else dict(settings))
    except ValidationError as error:
        raise SettingsError(f"verifier.plugins.{name}: {describe(error)}") from error


def load_plugin(settings: Mapping[str, Any]) -> Plugin:
    """The plug-in `settings["name"]`; the other keys are those of [verifier.plugins.NAME]. Raises SettingsError."""
    name = str(settings["name"])
    section = plugin_section({key: value for key, value in settings.items() if key != "name"}, name)
    target, style = _target_and_style(section)
    setting = f"verifier.plugins.{name} = {target or name!r}"
    subject, module = _find(target or name, setting)
    scale = Scale(low=section.range[0], high=section.range[1], clip=section.clip)
    how = Adaptation(style=style, scale=scale, gold_parameter=section.gold_parameter, arguments=section.arguments)
    loop = AsyncLoop()
    try:
        verify = adapt(subject, how, loop)
    except SettingsError as error:
        raise SettingsError(f"{setting} cannot be used: {error}") from error
    except Exception as error:
        raise SettingsError(f"{setting} cannot be made without arguments ({type(error).__name__}: {error}): name an instance") from error
    description = (getattr(subject, "__doc__", None) or "").strip().partition("\n")[0]
    return Plugin(name=name, verify=verify, version=_version(subject, module), description=description or target or name, close=loop.close)


def _target_and_style(section: PluginSection) -> tuple[str, str]:
    """`module:function@verl` names the style behind the target."""
    target, mark, style = section.target.rpartition(STYLE_MARK)
    if mark and style in get_args(Style):
        return target, style
    return section.target, section.style


def _find(target: str, setting: str) -> tuple[Any, ModuleType | None]:
    try:
        return load_attribute(target) if ":" in target else (_entry_point(target, setting).load(), None)
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {error}"
        remedy = "install it where the verifier runs, or correct the name"
        raise SettingsError(f"{setting} cannot be imported ({problem}): {remedy}") from error


def _entry_point(name: str, setting: str) -> EntryPoint:
    offered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in offered:
        known = f"installed ones are {', '.join(sorted(offered))}" if offered else "no installed distribution has any"
        raise SettingsError(
            f"{setting}: no entry point {name!r} in the group {GROUP} ({known}); "
            'a plug-in is also "module:attribute" or "path/to/file.py:attribute"'
        )
    return offered[name]


def _version(subject: object, module: ModuleType | None) -> str:
    owner = module or sys.modules.get(getattr(subject, "__module__", "") or type(subject).__module__)
    return str(getattr(subject, "version", "") or getattr(owner, "__version__", ""))
