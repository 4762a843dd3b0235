"""The process for proofs: it ends on time, comes back, and knows nothing."""

import os
import signal
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from oprime_verifier.math import verifier
from oprime_verifier.math.decide.symbolic import MAX_ITEMS, SymbolicProcess
from oprime_verifier.math.decide.verdicts import Same
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.read.reader import read
from oprime_verifier.math.tree.trees_json import from_json, to_json
from oprime_verifier.math.tree.values import Expr, Num, Pow


@pytest.fixture
def symbolic() -> Iterator[SymbolicProcess]:
    process = SymbolicProcess()
    yield process
    process.close()


def tree(text: str) -> Expr:
    value = read(text).value
    assert value is not None
    return value  # pyright: ignore[reportReturnType]


SINE, DOUBLE = "\\sin 2x", "2\\sin x\\cos x"
BOMB = Pow(Num(Fraction(7)), Num(Fraction(10**10)))


def test_it_proves_identities_and_differences(symbolic: SymbolicProcess) -> None:
    assert symbolic.prove(tree(SINE), tree(DOUBLE), 10) is True
    assert symbolic.prove(tree("\\sqrt{2}+\\sqrt{3}"), tree("\\sqrt{5+2\\sqrt{6}}"), 10) is True
    assert symbolic.prove(tree("\\sqrt{2}"), tree("\\sqrt{3}"), 10) is False


def test_it_is_killed_at_the_deadline_and_the_next_proof_works(symbolic: SymbolicProcess) -> None:
    assert symbolic.prove(BOMB, tree("1"), 0.3) is None
    assert symbolic.prove(tree(SINE), tree(DOUBLE), 10) is True


def test_a_signal_that_stops_the_service_does_not_end_a_proof(symbolic: SymbolicProcess) -> None:
    symbolic.prove(tree("x"), tree("x"), 10)
    pid = symbolic.pid
    os.kill(pid, signal.SIGTERM)
    assert symbolic.prove(tree(SINE), tree(DOUBLE), 10) is True
    assert symbolic.pid == pid


def test_a_proof_that_a_passing_fault_cut_short_is_tried_again() -> None:
    verifier.warm_up()
    try:
        # Its process hangs, as on a host without a moment for it, and is replaced.
        os.kill(verifier._symbolic.pid, signal.SIGSTOP)
        found = [verifier.decide("\\sqrt{2}+\\sqrt{3}", "\\sqrt{5+2\\sqrt{6}}", MathOptions(symbolic_deadline_s=5.0))[0] for _ in range(2)]
    finally:
        verifier.close()
    assert found == [Same.UNKNOWN, Same.YES]


def test_it_works_from_another_thread(symbolic: SymbolicProcess) -> None:
    found: list[bool | None] = []
    threads = [threading.Thread(target=lambda: found.append(symbolic.prove(tree(SINE), tree(DOUBLE), 10))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True, True, True]


def test_it_is_replaced_after_a_number_of_proofs(symbolic: SymbolicProcess) -> None:
    pids = set[int]()
    for _ in range(MAX_ITEMS + 1):
        symbolic.prove(tree("x"), tree("x"), 10)
        pids.add(symbolic.pid)
    assert len(pids) == 2


def test_it_has_none_of_its_parents_files_and_no_environment(symbolic: SymbolicProcess) -> None:
    with Path(__file__).open():
        symbolic.prove(tree("x"), tree("x"), 10)
        assert len(os.listdir(f"/proc/{symbolic.pid}/fd")) == 2  # noqa: PTH208 - a proc folder


def test_closing_it_ends_the_process(symbolic: SymbolicProcess) -> None:
    symbolic.start()
    pid = symbolic.pid
    symbolic.close()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("text", ["-\\frac{3}{4}", SINE, "x^{2}+e^{i\\pi}", "\\sum_{k=1}^{n} k", "\\sqrt[3]{2}"])
def test_a_tree_survives_the_pipe(text: str) -> None:
    assert from_json(to_json(tree(text))) == tree(text)
