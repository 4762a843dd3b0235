"""What PRM and reference must have in common."""

from transformers import PreTrainedTokenizerBase

from oprime.lm.tokenizers import load_tokenizer, same_tokenizer
from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import ModelSection
from oprime_prm.config import PrmSection


def require_the_same_tokenizer(model: ModelSection, prm: PrmSection, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises SettingsError where the PRM or its reference reads tokens otherwise than `tokenizer`, that of `model`."""
    for setting in ("initial_model", "reference_model"):
        path: str = getattr(prm, setting)
        if not path or path == model.path:
            continue
        difference = same_tokenizer(tokenizer, load_tokenizer(path, trust_remote_code=model.trust_remote_code))
        if difference is not None:
            raise SettingsError(
                f"prm.{setting} ({path}) has another tokenizer than model.path ({model.path}): {difference}; "
                "PRM and reference score the policy's own tokens, so all must share one"
            )
