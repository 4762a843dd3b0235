"""The tokenizer of a supervised fine-tuning, with the chat template that its conversations go through."""

from pathlib import Path
from typing import TYPE_CHECKING

from oprime.lm.tokenizers import load_tokenizer, require_chat_template
from oprime.runtime.errors import SettingsError
from oprime_cli.warm_up.plan import WarmUp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_chat_tokenizer(plan: WarmUp, directory: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in a model's directory, or of a hub id, with the template of sft.chat_template if that is set. Raises SettingsError."""
    tokenizer = load_tokenizer(directory, trust_remote_code=plan.config.model.trust_remote_code)
    if plan.settings.chat_template:
        tokenizer.chat_template = read_template(plan.settings.chat_template)
    require_chat_template(tokenizer)
    return tokenizer


def read_template(file: str) -> str:
    """Raises SettingsError for a file that is none."""
    try:
        template = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"sft.chat_template = {file} cannot be read ({error}): name a file with a chat template in Jinja") from error
    if not template.strip():
        raise SettingsError(f"sft.chat_template = {file} is empty: name a file with a chat template in Jinja")
    return template
