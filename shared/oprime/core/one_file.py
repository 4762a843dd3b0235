"""Folders in which every file is one choice of a setting: its name is the setting's value, and one object in it says all about it.

Loads no torch: settings and command line read these where there is none.
"""

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from importlib import import_module
from inspect import signature
from typing import Any, Protocol, TypeVar, runtime_checkable

Settings = Mapping[str, Any]
"""Values of settings, by name."""
ChoiceT = TypeVar("ChoiceT", bound="Choice")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSetting:
    """A setting that exists for some files alone: one of `choices`, a number, or a switch. The default's type is the setting's: float, int
    (a whole number) or bool."""

    name: str
    default: str | float | bool
    meaning: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    """The number must be greater."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """What a file computes, in the symbols of docs/algorithm.md. The only place where it is written down besides the code."""

    text: str
    term: str = ""
    """What it is called, where a file has several, or may choose."""
    symbols: Mapping[str, str] = field(default_factory=dict[str, str])
    """The setting that each symbol of the formula stands for."""
    when: Settings = field(default_factory=dict[str, Any])
    """Values of own settings under which it holds."""
    unless: Settings = field(default_factory=dict[str, Any])
    """Values of own settings under which it does not."""

    def holds(self, settings: Settings) -> bool:
        return all(settings[name] == value for name, value in self.when.items()) and all(
            settings[name] != value for name, value in self.unless.items()
        )


def no_contradictions() -> Iterable[str]:
    """For files that go with all settings."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a file says about itself. `with_settings` gives each of its functions the settings that it names as keyword-only parameters."""

    about: str
    source: str
    """Where it stands: equation or section of the paper, or arXiv number."""
    formulas: tuple[Formula, ...]
    settings: tuple[OwnSetting, ...] = ()
    contradictions: Callable[..., Iterable[str]] = no_contradictions
    """What speaks against the settings, a sentence each: settings, values, rule, remedy."""

    @property
    def needed(self) -> tuple[str, ...]:
        """What the rest of the system has to provide, in words."""
        return ()

    @property
    def described(self) -> str:
        """What it is, where it stands and what it needs."""
        needs = f"; needs {' and '.join(self.needed)}" if self.needed else ""
        return f"{self.about} ({self.source}){needs}"

    def own_values(self, settings: Settings) -> dict[str, Any]:
        """Values of its own settings; the default of one that is not there."""
        return {own.name: settings.get(own.name, own.default) for own in self.settings}

    def with_settings(self: ChoiceT, settings: Settings) -> ChoiceT:
        """Itself, with the values of its section's settings in its functions."""
        known = {**settings, **self.own_values(settings)}
        functions = {one.name: getattr(self, one.name) for one in fields(self) if callable(getattr(self, one.name))}
        return replace(self, **{name: _bound(function, known) for name, function in functions.items()})

    def formulas_under(self, settings: Settings) -> list[Formula]:
        """Those that hold with these values."""
        return [formula for formula in self.formulas if formula.holds(settings)]


@cache
def named_settings(function: Callable[..., Any]) -> tuple[str, ...]:
    """The keyword-only parameters of a choice's function."""
    return tuple(name for name, parameter in signature(function).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY)


def _bound(function: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    return partial(function, **{name: settings[name] for name in named_settings(function) if name in settings})


@runtime_checkable
class Folder(Protocol):
    """A package whose modules are choices."""

    def names(self) -> tuple[str, ...]: ...

    def named(self, name: str) -> Choice: ...


def file_names(folder: Iterable[str]) -> tuple[str, ...]:
    """Names of the files in a package's `__path__`, in alphabetical order."""
    return _names_in(tuple(folder))


@cache
def _names_in(folder: tuple[str, ...]) -> tuple[str, ...]:
    """Looked up once: every group that is decided asks."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folder)))


def object_of(package: str, name: str, names: tuple[str, ...], *, attribute: str, kind: str) -> Any:
    """The file's object of that name. Raises ValueError for a name that no file has, and for a file without the object."""
    if name not in names:
        raise ValueError(f"there is no {kind} {name!r}: choose one of {', '.join(names)}")
    module = import_module(f"{package}.{name}")
    if not hasattr(module, attribute):
        raise ValueError(f"{module.__file__} has no {attribute}, which says what this {kind} is: see docs/extending.md, or remove the file")
    return getattr(module, attribute)


def own_settings(folders: Iterable[Folder]) -> dict[str, OwnSetting]:
    """The own settings of all files of some folders, by name. Raises ValueError where two mean different things by one name."""
    found: dict[str, OwnSetting] = {}
    for folder in folders:
        for name in folder.names():
            for setting in folder.named(name).settings:
                if found.setdefault(setting.name, setting) != setting:
                    raise ValueError(f"{name!r} has a setting {setting.name!r} that another file declares differently: rename it")
    return found


def users_of(setting: str, folder: Folder) -> tuple[str, ...]:
    """Names of the folder's files that have an own setting."""
    return tuple(name for name in folder.names() if setting in {own.name for own in folder.named(name).settings})
