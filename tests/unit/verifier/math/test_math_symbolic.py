"""The process for proofs: it ends on time, comes back, and knows nothing."""

import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from oprime_verifier.math.reader import read
from oprime_verifier.math.symbolic import MAX_ITEMS, SymbolicProcess
from oprime_verifier.math.trees_json import from_json, to_json
from oprime_verifier.math.values import Expr, Num, Pow


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
