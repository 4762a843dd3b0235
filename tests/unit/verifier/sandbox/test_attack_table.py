from oprime.core.verification import Verdict
from oprime_verifier.conformance.attack_checks import ATTACKS


def test_the_threat_table_is_covered_and_names_are_unique() -> None:
    # Row 57, a solution that fails only on a loaded host, is no submission but a rule of judging.
    assert {attack.number for attack in ATTACKS} >= set(range(1, 57))
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


def test_only_honest_programs_may_be_paid() -> None:
    honest = {attack.name for attack in ATTACKS if Verdict.CORRECT in attack.verdicts}
    assert all(
        name.startswith("honest") or name in ("2 MB of output", "never reads 10 MB", "dice are the same each time") for name in honest
    )
