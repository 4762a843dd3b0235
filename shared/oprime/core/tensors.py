"""The type of tensors for annotations, without loading torch.

Settings, command line and coordinator run without torch, and read from the estimators what these need. Such modules take `Tensor` from
here and compute with its methods.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:
    Tensor = Any
