"""What a row's error says of a refusal."""

from oprime_cli.scoring.answer_file import Row
from oprime_cli.scoring.refusals import refused


def test_a_limit_of_what_stands_before_the_gateway_is_said_in_its_own_words() -> None:
    said = "proxy:80 answers 413: <html>Request Entity Too Large</html>"
    answer = refused(Row(number=7, value={"id": "x"}), f"too large even alone: {said}", 413)
    assert answer == {
        "id": "x",
        "error": f"line 7 alone is too large: {said}; shorten the row, or raise the limit of what stands before the gateway",
    }
