"""What the models of a command were asked, and what that cost."""

from dataclasses import dataclass, field

from oprime_cli.chat.model import Usage
from oprime_cli.chat.settings import ChatModelSection


@dataclass(slots=True)
class UsageNotes:
    """Of each stage that asked a model in this run; what earlier runs asked is not in it."""

    entries: dict[str, tuple[ChatModelSection, Usage]] = field(default_factory=dict[str, tuple[ChatModelSection, Usage]])

    def note(self, stage: str, section: ChatModelSection, usage: Usage) -> None:
        self.entries[stage] = (section, usage)

    def lines(self) -> list[str]:
        return [f"{stage}: {said(section, usage)}" for stage, (section, usage) in self.entries.items()]


def said(section: ChatModelSection, usage: Usage) -> str:
    """One line for a person."""
    parts = [f"{usage.responses} responses of {section.name or section.path}", f"{usage.prompt_tokens} + {usage.response_tokens} tokens"]
    if usage.repeated:
        parts.append(f"{usage.repeated} requests repeated")
    if section.prompt_price or section.response_price:
        parts.append(f"cost {section.cost(usage):.4f}")
    return ", ".join(parts)
