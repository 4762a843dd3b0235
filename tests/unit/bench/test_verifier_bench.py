"""What the verifier's benchmark warms up with is not what it measures."""

from bench.verifier import as_another


def test_the_warm_up_judges_another_program() -> None:
    # The verifier keeps results: the same request again would be answered from memory.
    program, *rest = as_another(("print(input())", "1", "1"))
    assert program != "print(input())"
    assert program.startswith("print(input())\n#")
    assert rest == ["1", "1"]
