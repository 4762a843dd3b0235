"""Settings whose values are files of a folder in `oprime.core`, and the own settings of these files, which their section gets as well."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, create_model

from oprime.core.one_file import Folder, OwnSetting, own_settings, users_of

SectionT = TypeVar("SectionT", bound=BaseModel)
Folders = Mapping[str, Folder]
"""By the name of the setting that chooses from them."""


def a_file_of(folder: Folder) -> AfterValidator:
    """Refuses a name that no file of the folder has, with those that there are."""

    def known(name: str) -> str:
        folder.named(name)
        return name

    return AfterValidator(known)


def chosen_from(folder: Folder, *, default: str, meaning: str) -> Any:
    """A field that says of each file what it is and needs, in its own words."""
    about = (f"`{name}`: {folder.named(name).described}" for name in folder.names())
    return Field(default=default, description=f"{meaning} {'. '.join(about)}.", examples=list(folder.names()))


def with_own_settings(section: type[SectionT], folders: Folders) -> type[SectionT]:
    """The section with the own settings of all files. Raises ValueError where a name means two things."""
    fields = {setting.name: _field_of(setting, folders) for setting in own_settings(folders.values()).values()}
    if taken := fields.keys() & section.model_fields.keys():
        raise ValueError(f"a file declares the setting {min(taken)!r}, which its section already has: rename it")
    return create_model(section.__name__, __base__=section, **fields)


def _field_of(setting: OwnSetting, folders: Folders) -> Any:
    kind: Any = Literal[setting.choices] if setting.choices else type(setting.default)
    users = "; ".join(f"{key} {' or '.join(f'`{name}`' for name in names)}" for key, names in _users(setting.name, folders).items())
    meaning = f"{setting.meaning} Only for {users}."
    return kind, Field(default=setting.default, ge=setting.low, le=setting.high, gt=setting.above, description=meaning)


def _users(setting: str, folders: Folders) -> dict[str, tuple[str, ...]]:
    users = {key: users_of(setting, folder) for key, folder in folders.items()}
    return {key: names for key, names in users.items() if names}


def idle_settings(section: BaseModel, prefix: str, folders: Folders) -> list[str]:
    """Own settings that somebody changed, of files that are not chosen."""
    chosen = {key: getattr(section, key) for key in folders}
    problems: list[str] = []
    for name, setting in own_settings(folders.values()).items():
        users, value = _users(name, folders), getattr(section, name)
        if value == setting.default or any(chosen[key] in names for key, names in users.items()):
            continue
        where = " and ".join(f'{prefix}.{key} = "{chosen[key]}"' for key in users)
        who = " and ".join(other for names in users.values() for other in names)
        remedy = f"set {prefix}.{name}={plain(setting.default)}"
        problems.append(f"{prefix}.{name} ({plain(value)}) does nothing with {where}: it is for {who} only; {remedy}")
    return problems


def plain(value: str | float | bool) -> str:
    """A value as a person writes it in a setting."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:g}"
