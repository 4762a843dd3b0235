"""Settings of `oprime data prepare` and `oprime data actions`, a TOML file each."""

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import Section, describe, read_toml
from oprime.tasks.sources.eurus_sources import CODE_SUFFIX, MATH_SUFFIX
from oprime_cli.chat.settings import ChatModelSection
from oprime_cli.overrides import apply_override
from oprime_verifier.config import VerifierSection


class SourceSection(Section):
    """One file with questions."""

    file: str
    """JSONL, JSON or parquet file, or `hf://datasets/OWNER/NAME/FILE`."""
    form: str = ""
    """Form of its rows (docs/tasks.md); empty recognises it by the first row."""
    question: str = ""
    """Field with the question, of rows in another form; `answer` then has the answer."""
    answer: str = ""
    """Field with the answer or with the tests of a code task."""
    answer_after: str = ""
    """The answer is what follows the last of this text in its field."""
    ability: Literal["math", "code"] = "math"
    """What rows in another form ask for."""
    data_source: str = ""
    """Name of the source in each row; empty takes what the form says, or else the file's name."""

    @model_validator(mode="after")
    def fields_fit(self) -> Self:
        if bool(self.question) != bool(self.answer) or (self.question and self.form):
            raise ValueError("question and answer name two fields together, and form a known form instead: give both fields, or form")
        return self


class RulesSection(Section):
    """Questions that are dropped by how they are worded (paper, appendix on data)."""

    figures: bool = True
    """Drop what refers to a figure."""
    proofs: bool = True
    """Drop what asks for a proof."""
    blanks: bool = True
    """Drop blanks to fill in."""
    max_question_chars: int = Field(default=20_000, ge=1)
    """Drop longer questions."""
    max_answer_chars: int = Field(default=500, ge=1)
    """Drop mathematical answers that are longer."""


class DuplicatesSection(Section):
    """Questions that come again."""

    similarity: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of word shingles from which two questions are the same; 1 drops only equal ones."""
    shingle_words: int = Field(default=3, ge=1)
    """Words of a shingle."""
    keep_other_answers: bool = False
    """Keep a nearly equal mathematical question whose answer is another: the same with other numbers, or another part of a long one."""


class DecontaminateSection(Section):
    """Questions that stand in a benchmark."""

    benchmarks: tuple[str, ...] = ()
    """Files with benchmarks, in any form that `sources` may have."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Drop a question when this share of the shorter one's shingles is in the other; 1 drops only what contains it word by word."""
    shingle_words: int = Field(default=3, ge=1)
    """Words of a shingle."""
    min_words: int = Field(default=10, ge=1)
    """Of shorter questions only equal ones are dropped."""


class ChoicesSection(Section):
    """Multiple-choice questions."""

    treatment: Literal["drop", "keep", "rewrite"] = "drop"
    """`rewrite` has a model make open questions of them, and drops those that cannot be answered without the options."""
    model: ChatModelSection | None = None
    """Who rewrites."""
    tries: int = Field(default=3, ge=1)
    """How often a model is asked for one question before it is dropped."""

    @model_validator(mode="after")
    def has_a_model(self) -> Self:
        if self.treatment == "rewrite" and self.model is None:
            raise ValueError('treatment = "rewrite" needs [choices.model], which rewrites')
        return self


class AnswersSection(Section):
    """Answers that the verifier cannot compare."""

    check: bool = True
    """Drop a mathematical answer that, given as a response, is not found right."""


class SolveSection(Section):
    """Questions that a model cannot solve, or whose samples agree on another answer."""

    model: ChatModelSection | None = None
    """Who solves; without it, nothing is sampled."""
    samples: int = Field(default=5, ge=1)
    """Responses to each question (paper: 5)."""
    min_right: int = Field(default=1, ge=0)
    """Drop a question with fewer right samples."""
    consistent: bool = True
    """Drop a mathematical question where several samples give one wrong answer, and more of them than the right one."""
    seed: int = Field(default=0, ge=0)
    """Seeds the samples."""


class DifficultySection(Section):
    """Share of right samples that a question may have, once it was solved."""

    min_pass_rate: float = Field(default=0.0, ge=0, le=1)
    """Drop harder questions."""
    max_pass_rate: float = Field(default=1.0, ge=0, le=1)
    """Drop easier ones."""


class RowsSection(Section):
    """How questions become task rows."""

    system: Literal["actions", "none"] = "actions"
    """System turn: the short prompt of the seven actions (docs/data.md), or none."""
    math_suffix: str = MATH_SUFFIX
    """Text after each mathematical question."""
    code_suffix: str = CODE_SUFFIX
    """Text after each programming task."""
    heldout: int = Field(default=0, ge=0)
    """So many rows become heldout.jsonl, chosen by the hash of the question; the others train.jsonl."""


class PrepareConfig(BaseModel):
    """All of `oprime data prepare`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    folder: str
    """Folder for train.jsonl, heldout.jsonl and the files of each stage."""
    sources: tuple[SourceSection, ...] = Field(min_length=1)
    """Files with questions, one table each: `[[sources]]`."""
    rules: RulesSection = RulesSection()
    duplicates: DuplicatesSection = DuplicatesSection()
    decontaminate: DecontaminateSection = DecontaminateSection()
    choices: ChoicesSection = ChoicesSection()
    answers: AnswersSection = AnswersSection()
    solve: SolveSection = SolveSection()
    difficulty: DifficultySection = DifficultySection()
    rows: RowsSection = RowsSection()
    verifier: VerifierSection = VerifierSection()


class ActionsConfig(BaseModel):
    """All of `oprime data actions`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    output: str
    """JSONL file for the demonstrations. Beside it stand what was asked (`.asked.jsonl`) and what was dropped (`.dropped.jsonl`)."""
    sources: tuple[SourceSection, ...] = Field(min_length=1)
    """Files with questions, one table each: `[[sources]]`."""
    model: ChatModelSection
    """Who writes the responses."""
    samples: int = Field(default=1, ge=1)
    """Responses to each question, at most: no more are asked for when one was good."""
    limit: int = Field(default=0, ge=0)
    """Take only so many questions; 0 takes all."""
    seed: int = Field(default=0, ge=0)
    """Seeds the responses."""
    system: Literal["short", "long", "none"] = "short"
    """System turn of the rows. The model is always given the long prompt."""
    math_suffix: str = MATH_SUFFIX
    """Text after each mathematical question."""
    code_suffix: str = CODE_SUFFIX
    """Text after each programming task."""
    verifier: VerifierSection = VerifierSection()


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def read_settings(kind: type[ConfigT], path: Path, overrides: list[str]) -> ConfigT:
    """Read a TOML file, changed by `overrides`. Raises SettingsError with file, setting, value and rule."""
    document: dict[str, Any] = read_toml(path)
    for text in overrides:
        apply_override(document, text, needs_section=False)
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise SettingsError(f"{path}{' with --set' if overrides else ''}: {describe(error, kind)}") from error
