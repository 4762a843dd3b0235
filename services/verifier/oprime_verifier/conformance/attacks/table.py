"""All hostile submissions, for the tests and for the conformance command."""

from oprime_verifier.conformance.attacks.escapes import ESCAPES
from oprime_verifier.conformance.attacks.misbehaviours import MISBEHAVIOURS
from oprime_verifier.conformance.attacks.tasks import Attack

ATTACKS: tuple[Attack, ...] = (*MISBEHAVIOURS, *ESCAPES)
