"""What two questions have in common."""

from pathlib import Path

import pytest

from oprime.tasks.sources.question import Question
from oprime_cli.data.comparing import Duplicates
from oprime_cli.data.overlap import Collection, NearDuplicates, shingles_of, words_of
from oprime_cli.data.settings import DuplicatesSection
from oprime_cli.data.stages import Item

TRAIN = (
    "A plane travels 1200 miles in 3 hours. At the same rate, how many additional hours would it take to travel an additional 2000 miles?"
)
OTHER = "Bella bought stamps at the post office, 11 with a snowflake design and 9 more with a truck. How many did she buy in all?"
PARTS = f"{TRAIN} {OTHER} Give the {{}} of these."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"If $2^8=4^x$, what is $x$?", "if  $ 2 ^ {8} = 4^x $ what is x"),
        (r"Compute $\dfrac{1}{2} \cdot \left(3\right)$.", r"compute \(\frac12 \times (3)\)".replace("frac12", "frac{1}{2}")),
        (r"\text{Find} $x\leq 5$", r"find $x \le 5$"),
        ("\uff26ind x", "find x"),
    ],
)
def test_spelling_does_not_make_another_question(one: str, other: str) -> None:
    assert words_of(one) == words_of(other) != ()


@pytest.mark.parametrize(
    ("one", "other"), [("x^2 - 5", "x^2 + 5"), ("270 miles", "360 miles"), ("\\sin x", "\\cos x"), ("求面积", "求体积")]
)
def test_other_numbers_operators_and_words_do(one: str, other: str) -> None:
    assert words_of(one) != words_of(other)


def test_a_text_shorter_than_a_shingle_is_one() -> None:
    assert shingles_of(words_of("a b c d"), 3) == {("a", "b", "c"), ("b", "c", "d")}
    assert shingles_of(words_of("a b"), 3) == {("a", "b")}
    assert shingles_of((), 3) == frozenset()


def test_copies_and_paraphrases_of_a_collection_are_found_with_the_text_that_they_come_from() -> None:
    known = Collection([OTHER, TRAIN], length=3, min_words=10)
    copy, inside = known.nearest(TRAIN.upper().replace(",", "")), known.nearest(f"Solve this with care. {TRAIN} Box the answer.")
    assert copy is not None
    assert (copy.index, copy.share) == (1, 1.0)
    assert inside is not None
    assert (inside.index, inside.share) == (1, 1.0)
    paraphrase = known.nearest(TRAIN.replace("plane", "train").replace("1200", "270").replace("2000", "180"))
    assert paraphrase is not None
    # Words 2 and 4 of 25 stand in the first four shingles of 23, word 24 in the last two.
    assert (paraphrase.index, paraphrase.share) == (1, 17 / 23)


def test_other_questions_share_little() -> None:
    known = Collection([TRAIN], length=3, min_words=10)
    assert known.nearest(OTHER) is None
    nearest = known.nearest("A train travels at 90 miles per hour. How many hours would it take to go 270 miles from here?")
    assert nearest is not None
    assert nearest.share < 0.3


def test_of_short_questions_only_the_same_words_count() -> None:
    known = Collection(["Compute $\\sin 45^\\circ$.", TRAIN], length=3, min_words=10)
    same = known.nearest("compute \\sin 45^{\\circ}")
    assert same is not None
    assert (same.index, same.share) == (0, 1.0)
    assert known.nearest("Compute $\\sin 60^\\circ$.") is None
    assert known.nearest("how many additional hours") is None


def first_alike(near: NearDuplicates, text: str) -> int | None:
    """The first text that this one nearly is; else it is added."""
    one = near.fingerprint(text)
    found = near.alike(one)
    if found:
        return found[0]
    near.add(one)
    return None


def test_near_duplicates_are_told_apart_from_other_questions() -> None:
    near = NearDuplicates(similarity=0.8, length=3)
    assert [first_alike(near, text) for text in (TRAIN, OTHER)] == [None, None]
    # Word 12 of 25 stands in 3 of 23 shingles: a similarity of 20 / 26.
    assert first_alike(near, TRAIN.replace("rate", "speed")) is None
    assert first_alike(near, TRAIN.replace("miles?", "km?")) == 0
    assert first_alike(near, OTHER.replace("Bella", "Max")) == 1


def test_every_near_duplicate_of_many_is_found() -> None:
    near = NearDuplicates(similarity=0.8, length=3)
    texts = [" ".join(f"w{(place * 31 + number * 7919) % 5003}x" for place in range(60)) for number in range(200)]
    assert [first_alike(near, text) for text in texts] == [None] * 200
    assert [first_alike(near, f"{text} indeed") for text in texts] == list(range(200))


async def test_a_nearly_equal_question_with_another_answer_may_stay(tmp_path: Path) -> None:
    asked = [(PARTS.format(end), gold) for end, gold in (("first", "1"), ("second", "2"), ("third", "1"), ("fourth", "2"))]
    items = [Item(origin=gold, question=Question(text=text, ground_truth=gold, ability="math", data_source="s")) for text, gold in asked]

    async def kept(**settings: bool) -> list[str]:
        stage = Duplicates(DuplicatesSection(**settings))
        return [one.question.text for one in [found async for found in stage.run(iter(items), tmp_path)] if isinstance(one, Item)]

    assert await kept() == [asked[0][0]]
    assert await kept(keep_other_answers=True) == [asked[0][0], asked[1][0]]
