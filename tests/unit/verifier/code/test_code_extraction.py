import contextlib

import pytest

from oprime_verifier.code.extract import NoCodeError, complete, extract_program


def test_the_last_block_counts() -> None:
    response = "First try:\n```python\nprint(1)\n```\nBetter:\n```python\nprint(2)\n```\nDone."
    assert extract_program(response) == "print(2)\n"


def test_a_block_inside_the_reasoning_does_not_count() -> None:
    response = "<think>\n```python\nprint(1)\n```\n</think>\nHere: \n```py\nprint(2)\n```"
    assert extract_program(response) == "print(2)\n"
    with pytest.raises(NoCodeError, match="no_code"):
        extract_program("<think>\n```python\nprint(1)\n```\n</think>\nThe program is above.")


def test_reasoning_that_never_ends_leaves_nothing_to_grade() -> None:
    with pytest.raises(NoCodeError, match="unfinished_reasoning"):
        extract_program("<think>I could write\n```python\nprint(1)\n```\n")


def test_reasoning_that_the_prompt_opened_is_recognised() -> None:
    assert extract_program("```python\nprint(1)\n```\n</think>\n```python\nprint(2)\n```") == "print(2)\n"


def test_the_word_think_inside_a_program_is_no_reasoning() -> None:
    assert extract_program("```python\nprint('<think>')\n```") == "print('<think>')\n"


@pytest.mark.parametrize("response", ["", "print(1)", "The answer is 4.", "```\n\n```", "``print(1)``"])
def test_without_a_fenced_program_there_is_no_code(response: str) -> None:
    with pytest.raises(NoCodeError, match="no_code"):
        extract_program(response)


def test_a_sample_output_after_the_program_is_not_the_program() -> None:
    assert extract_program("```python\nprint(5)\n```\nIt prints\n```\n5\n```\n") == "print(5)\n"
    assert extract_program("```python\nprint(5)\n```\nRun it:\n```bash\npython main.py\n```") == "print(5)\n"


def test_a_block_without_a_language_is_code_where_no_other_is() -> None:
    assert extract_program("```\nprint(1)\n```") == "print(1)\n"


def test_a_fence_may_be_missing_at_the_end() -> None:
    assert extract_program("```python\nprint(1)") == "print(1)"


def test_backticks_inside_a_longer_fence_are_text() -> None:
    assert extract_program("````python\nx = '''\n```\n'''\n````") == "x = '''\n```\n'''\n"


def test_a_block_in_a_list_loses_its_indent() -> None:
    assert extract_program("1. So:\n   ```python\n   if 1:\n       print(1)\n   ```\n") == "if 1:\n    print(1)\n"


def test_other_languages_have_tags_of_their_own() -> None:
    response = "```cpp\nint main(){}\n```\n```python\nprint(1)\n```"
    assert extract_program(response, "cpp") == "int main(){}\n"


def test_a_bare_response_is_the_program() -> None:
    assert extract_program("    return 1\n", bare=True) == "    return 1\n"


PROMPT = 'def twice(x: int) -> int:\n    """Two times x."""\n'


def test_a_completion_gets_its_signature_back() -> None:
    assert complete("    return 2 * x\n", PROMPT, "twice") == PROMPT + "    return 2 * x\n"
    assert complete("return 2 * x\n", PROMPT, "twice") == PROMPT + "    return 2 * x\n"


def test_a_whole_function_stays_as_it_is() -> None:
    program = "def twice(x):\n    return 2 * x\n"
    assert complete(program, PROMPT, "twice") == program
    assert complete("twice = lambda x: 2 * x\n", PROMPT, "twice") == "twice = lambda x: 2 * x\n"


@pytest.mark.parametrize("text", ["~" * 200_000 + "`", "`" * 200_000 + "x", "```" + " " * 200_000 + "`", "```\n" * 50_000])
def test_no_response_makes_the_search_slow(text: str) -> None:
    with contextlib.suppress(NoCodeError):
        extract_program(text)
