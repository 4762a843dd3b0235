"""Errors by name. `grpc_server.py` maps them to gRPC codes, the CLI to exit codes."""


class OprimeError(Exception):
    """A failure with a message for a person: what, which value, the rule, the remedy."""


class UnusableInputError(OprimeError):
    """The input can never be handled; retrying is useless."""


class SettingsError(OprimeError):
    """A setting is unknown, out of range or contradicts another."""


class NotReadyError(OprimeError):
    """The service cannot answer yet; retry."""


class QueueUnavailableError(OprimeError):
    """The queue does not answer; workers wait and reconnect."""


class WeightsRefusedError(OprimeError):
    """A weight version is missing, incomplete or damaged."""


class WeightVersionMissingError(WeightsRefusedError):
    """No such weight version in the store."""
