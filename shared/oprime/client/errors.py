"""What may go wrong when a gateway is asked."""

from oprime.runtime.errors import OprimeError


class RewardsError(OprimeError):
    """A gateway gave no rewards."""


class RefusedError(RewardsError):
    """The request is at fault, or the answer is none of a gateway; asking again is useless."""

    def __init__(self, message: str, status: int = 0, *, about_inputs: bool = False) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 where there was none."""
        self.about_inputs = about_inputs
        """Whether what was to be scored is at fault, and not the options: other inputs may be answered."""


class UnavailableError(RewardsError):
    """The gateway did not answer, or could not, as often as it was asked."""
