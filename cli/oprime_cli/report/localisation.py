"""Does the implicit PRM find the first wrong step? Measured on chains whose every step is known to be right or wrong."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import structlog
from jaxtyping import Bool, Float

from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import load_tokenizer, render_prompt
from oprime.runtime.errors import NotReadyError, UnusableInputError
from oprime.runtime.setting_rules import NO_PRM
from oprime.tasks.chain import ErrorKind, LabelledChain, Teacher, labelled_chains, parse_problem, right_result
from oprime.wire.codec import floats_from_bytes, ids_to_bytes
from oprime_cli.files import write_json
from oprime_cli.report.localisation_scores import localise
from oprime_cli.run_config import RunConfig
from oprime_cli.running.health import open_channel
from oprime_proto.v1 import prm_pb2 as pb
from oprime_proto.v1.prm_pb2_grpc import PrmServiceStub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = structlog.get_logger()

CHAINS = 512
"""Wrong chains of each kind, and right chains."""
LARGEST_CHUNK = 256
TIMEOUT_S = 120.0
WRONG_KINDS: tuple[ErrorKind, ...] = ("natural", "confuser")

Score = Callable[[pb.ScoreRequest], pb.ScoreResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedChain:
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """The words of the response, then the end token."""
    step_of_token: tuple[int, ...]
    """Which word each token belongs to; the end token belongs to none and is left out."""
    steps: int
    """Reasoning steps: all words but the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChains:
    """Sums over the tokens of each reasoning step."""

    log_ratio: Float[np.ndarray, "chain step"]
    """log pi_prm - log pi_reference."""
    reference_logprob: Float[np.ndarray, "chain step"]
    prm_version: int


def localisation_path(run_folder: Path) -> Path:
    return run_folder / "localisation.json"


def measure(run_folder: Path, config: RunConfig, *, chains: int = CHAINS) -> dict[str, Any] | None:
    """Score labelled chains with the running PRM and write RUN/localisation.json.

    Returns what was written, or None for tasks without known steps and runs without a PRM; the file then holds the reason. Raises
    NotReadyError when the PRM does not answer and UnusableInputError when it cannot score a chain.
    """
    reason = _not_measurable(config)
    if reason:
        write_json(localisation_path(run_folder), {"skipped": reason})
        log.info("localisation_skipped", reason=reason)
        return None
    with open_channel(config.endpoints.prm, config.endpoints.tls) as channel:
        result = measure_with(_caller(channel, config.endpoints.prm), config, chains=chains)
    write_json(localisation_path(run_folder), result)
    log.info("localisation_measured", prm_version=result["prm_version"], errors=result["errors"])
    return result


def _not_measurable(config: RunConfig) -> str:
    """Why nothing can be measured; empty if it can."""
    if not config.algorithm.needs_prm:
        return NO_PRM
    if config.tasks.source == "prose":
        return "the report measures it on chains; `oprime prm eval processbench` does on the solutions of `oprime tasks prose --errors`"
    if config.tasks.source != "chain":
        return f'the steps of tasks.source = "{config.tasks.source}" are not known to be right or wrong; only "chain" has them'
    return ""


def measure_with(score: Score, config: RunConfig, *, chains: int) -> dict[str, Any]:
    """The measurement, with any way to score."""
    operations = config.tasks.chain.operations
    teacher = Teacher(config.tasks.chain.teacher_seed)
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    chunk = min(LARGEST_CHUNK, config.prm.max_score_items)

    def scored(labelled: Sequence[LabelledChain]) -> ScoredChains:
        return score_chains([encode_chain(tokenizer, chain) for chain in labelled], score, chunk=chunk)

    right = scored(labelled_chains("none", chains, operations, teacher))
    errors: dict[str, Mapping[str, Mapping[str, float]]] = {}
    for kind in WRONG_KINDS:
        labelled = labelled_chains(kind, chains, operations, teacher)
        wrong, is_wrong_step = scored(labelled), np.array([wrong_steps(chain) for chain in labelled])
        errors[kind] = {
            "prm_log_ratio": asdict(localise(wrong.log_ratio, is_wrong_step, right.log_ratio)),
            "reference_logprob": asdict(localise(wrong.reference_logprob, is_wrong_step, right.reference_logprob)),
        }
    return {"task": "chain", "wrong": chains, "right": chains, "prm_version": right.prm_version, "errors": errors}


def wrong_steps(chain: LabelledChain) -> Bool[np.ndarray, " step"]:
    """Which steps state a wrong result for the value that they start from."""
    posed = parse_problem(chain.prompt)
    values = [int(word[1:]) for word in chain.response.split()[: len(posed.operations)]]
    before = (posed.start, *values[:-1])
    facts = [(value, sign, operand) for value, (sign, operand) in zip(before, posed.operations, strict=True)]
    return np.array([right_result(fact) != value for fact, value in zip(facts, values, strict=True)])


def encode_chain(tokenizer: "PreTrainedTokenizerBase", chain: LabelledChain) -> EncodedChain:
    """Tokens as the policy would have sampled them: the response, then the end token."""
    encoded: Any = tokenizer(chain.response, add_special_tokens=False, return_offsets_mapping=True)
    # A token may begin with the space before its word, so its end says where it belongs.
    step_of_token = tuple(len(chain.response[:end].split()) - 1 for _, end in encoded["offset_mapping"])
    end_id: Any = tokenizer.eos_token_id
    return EncodedChain(
        prompt_ids=tuple(render_prompt(tokenizer, [ChatMessage(role="user", content=chain.prompt)])),
        response_ids=(*encoded["input_ids"], end_id),
        step_of_token=step_of_token,
        steps=len(chain.response.split()) - 1,
    )


def score_chains(chains: Sequence[EncodedChain], score: Score, *, chunk: int) -> ScoredChains:
    """Score chains of equally many steps in requests of at most `chunk`."""
    log_ratio: list[np.ndarray] = []
    reference: list[np.ndarray] = []
    version = 0
    for part in _chunks(chains, chunk):
        answer = score(_request(part))
        version = answer.prm_version
        for chain, scored in zip(part, answer.responses, strict=True):
            if scored.error:
                raise UnusableInputError(f"the PRM could not score a chain of {len(chain.response_ids)} tokens: {scored.error}")
            of_reference = floats_from_bytes(scored.reference_logprobs)
            reference.append(step_sums(of_reference, chain))
            log_ratio.append(step_sums(floats_from_bytes(scored.prm_logprobs) - of_reference, chain))
    return ScoredChains(log_ratio=np.stack(log_ratio), reference_logprob=np.stack(reference), prm_version=version)


def step_sums(values: Float[np.ndarray, " token"], chain: EncodedChain) -> Float[np.ndarray, " step"]:
    """Sum over the tokens of each reasoning step; the answer and the end token are no steps."""
    sums = np.zeros(chain.steps + 1)
    np.add.at(sums, list(chain.step_of_token), values[: len(chain.step_of_token)])
    return sums[: chain.steps]


def _request(chains: Sequence[EncodedChain]) -> pb.ScoreRequest:
    items = [
        pb.ScoreItem(tokens=pb.TokenScoreInput(prompt_ids=ids_to_bytes(chain.prompt_ids), response_ids=ids_to_bytes(chain.response_ids)))
        for chain in chains
    ]
    return pb.ScoreRequest(items=items)


def _chunks(chains: Sequence[EncodedChain], size: int) -> Iterator[Sequence[EncodedChain]]:
    for start in range(0, len(chains), size):
        yield chains[start : start + size]


def _caller(channel: grpc.Channel, address: str) -> Score:
    stub = PrmServiceStub(channel)

    def call(request: pb.ScoreRequest) -> pb.ScoreResponse:
        try:
            return stub.Score(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            reason = error.details() if isinstance(error, grpc.Call) else error
            raise NotReadyError(f"the PRM at {address} does not score ({reason}): see its log in RUN/logs/prm.log") from error

    return call
