"""PRIME in one file: the algorithm that oprime runs as services, as one loop that can be read from top to bottom.

    python tests/golden/prime_in_one_file.py MODEL_DIRECTORY --steps 3

It is the synchronous algorithm (staleness bound 0): a test runs it beside the services and compares the weights. The
arithmetic is written out here on purpose; only the task, the seeds and the sampler are oprime's, so that both loops see
the same rollouts. Paper: arXiv 2502.01456, Algorithm 1.
"""

import argparse
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from oprime.core.types import Task, rollout_seed
from oprime.lm.models import load_causal_lm
from oprime.lm.sampling import sample_response
from oprime.lm.tokenizers import end_token_ids, load_tokenizer, render_prompt
from oprime.runtime.settings import ChainSection, TasksSection
from oprime.tasks.dataset import PromptOrder, load_tasks


@dataclass
class Settings:
    steps: int = 3
    seed: int = 0
    groups_per_batch: int = 8
    group_size: int = 4
    max_response_tokens: int = 16
    temperature: float = 1.0
    """The policy is what samples: its log-probs are those after temperature. The PRM's are at 1."""
    low: float = 0.2
    high: float = 0.8
    beta: float = 0.5
    policy_learning_rate: float = 2e-4
    policy_gradient_clip: float = 1.0
    prm_learning_rate: float = 1e-3
    prm_gradient_clip: float = 10.0
    adam_eps: float = 1e-8
    overlong_buffer: int = 0
    """Tokens before the limit in which the outcome falls by up to `overlong_penalty`; 0 means off."""
    overlong_penalty: float = 1.0
    mask_truncated: bool = False
    """Whether responses that were cut at the limit have no loss; they stay in their siblings' baselines."""
    policy_loss: str = "clip"
    """clip or gspo."""
    clip: float = 0.2
    gspo_clip: tuple[float, float] = (3e-4, 4e-4)
    importance_cap: float = 2.0
    correction: str = "token"
    """token, sequence_band or geometric_band: the latter reject whole responses."""
    rejection: tuple[float, float] = (0.5, 2.0)
    """Bounds of what is not rejected."""
    normalisation_floor: float = 1e-3
    estimator: str = "rloo"
    """rloo, reinforce, reinforce_baseline, grpo, remax, prm_value, prefix_baseline (with prm_loss prefix_value) or ppo."""
    divide_by_std: bool = True
    """Of grpo; False is Dr. GRPO."""
    standardised: str = "responses"
    """Of grpo: responses or tokens."""
    process_credit: str = "sum"
    """sum or min."""
    credit_temperature: float = 0.1
    process_discount: float = 1.0
    """Of grpo with tokens."""
    process_weight: float = 1.0
    whiten: bool = True
    aggregation: str = "tokens"
    """tokens, sequences, sequence_sums or constant."""
    constant_tokens: int = 0
    trace_decay: float = 1.0
    """lambda of ppo."""
    critic_learning_rate: float = 1e-3
    critic_gradient_clip: float = 1.0
    prm_update: str = "double_forward"
    """double_forward, single_forward, reverse or offline."""
    prm_loss: str = "ce"
    """ce, prefix_value, or dpo (with prm_update reverse)."""
    margin: float = 5.0
    reference: str = "sft"
    """sft or policy."""
    chain: ChainSection = field(default_factory=ChainSection)


@dataclass
class Rollout:
    group: int
    prompt: list[int]
    response: list[int]
    behaviour_logprobs: Tensor
    outcome: float
    truncated: bool
    greedy: "Rollout | None" = None
    """The policy's greedy response to the same prompt, with which ReMax compares this one; nothing is trained on it."""
    mask: list[bool] | None = None
    """Which tokens of the response the policy sampled; None where no other (a tool, an environment) wrote some of them. What others
    wrote is read and never trained on: log-probs, rewards and advantages below are those of the policy's own tokens, in their order."""


def own(rollout: Rollout, per_token: Tensor) -> Tensor:
    """The values of the policy's own tokens, of those of all response tokens."""
    return per_token if rollout.mask is None else per_token[torch.tensor(rollout.mask)]


def token_logprobs(model: torch.nn.Module, rollout: Rollout, temperature: float = 1.0) -> Tensor:
    """log pi(y_t | x, y_<t) for every response token that the policy sampled."""
    ids = torch.tensor([rollout.prompt + rollout.response])
    logits = model(input_ids=ids).logits[0, len(rollout.prompt) - 1 : -1].float()
    logprobs = (logits / temperature).log_softmax(-1)[torch.arange(len(rollout.response)), ids[0, len(rollout.prompt) :]]
    return own(rollout, logprobs)


def is_right(text: str, ground_truth: str) -> float:
    """The chain task is solved when the response ends with its answer."""
    return float(text.split()[-1:] == [f"#{ground_truth}"])


class Prompts:
    """Prompts in their seeded order, and the share of groups that recently passed the filter."""

    def __init__(self, settings: Settings, tasks: list[Task]) -> None:
        self.tasks, self.order = tasks, PromptOrder(settings.seed, len(tasks))
        self.next_group, self.accepted, self.decided = 0, 4.0, 8.0

    def wave(self, missing: int) -> list[tuple[int, Task]]:
        """As many prompts as will probably fill the batch."""
        count = math.ceil(missing / max(self.accepted / self.decided, 1 / 16))
        groups = range(self.next_group, self.next_group + count)
        self.next_group += count
        return [(group, self.tasks[self.order.index(group)]) for group in groups]

    def note(self, *, accepted: bool) -> None:
        keep = 1 - 1 / 256 if self.decided >= 256 else 1.0
        self.accepted, self.decided = self.accepted * keep + accepted, self.decided * keep + 1


def respond(
    settings: Settings, policy: PreTrainedModel, tokenizer, end_ids, group: int, task: Task, index: int = 0, *, greedy: bool = False
) -> Rollout:
    """One response to a task, sampled or greedy, and its outcome."""
    prompt = render_prompt(tokenizer, task.messages)
    sampled = sample_response(
        policy,
        prompt,
        temperature=0.0 if greedy else settings.temperature,
        max_tokens=settings.max_response_tokens,
        seed=rollout_seed(settings.seed, group, index),
        end_ids=end_ids,
    )
    response = [int(token) for token in sampled.response_ids]
    text = tokenizer.decode(response, skip_special_tokens=True)
    outcome, truncated = is_right(text, task.ground_truth), response[-1] not in end_ids
    return Rollout(group, prompt, response, torch.as_tensor(sampled.behaviour_logprobs), outcome, truncated)


def sample_batch(
    settings: Settings, prompts: Prompts, policy: PreTrainedModel, tokenizer, end_ids, respond: Callable[..., Rollout]
) -> list[list[Rollout]]:
    """Sample waves of prompts until enough groups pass the online prompt filter (paper, section 4.1)."""
    batch: list[list[Rollout]] = []
    while len(batch) < settings.groups_per_batch:
        for group, task in prompts.wave(settings.groups_per_batch - len(batch)):
            greedy = respond(settings, policy, tokenizer, end_ids, group, task, greedy=True) if settings.estimator == "remax" else None
            rollouts = [
                replace(respond(settings, policy, tokenizer, end_ids, group, task, index), greedy=greedy)
                for index in range(settings.group_size)
            ]
            mean = sum(rollout.outcome for rollout in rollouts) / len(rollouts)
            cut = any(rollout.truncated for rollout in rollouts) and not settings.mask_truncated
            accepted = settings.low <= mean <= settings.high and not cut
            prompts.note(accepted=accepted)
            if accepted:
                batch.append(rollouts)
    return batch[: settings.groups_per_batch]


def prm_scores(settings: Settings, prm, reference_logprobs: list[Tensor], rollouts: list[Rollout]) -> list[Tensor]:
    """beta * sum of log-ratios of each response (paper, Eq. 3)."""
    with torch.no_grad():
        return [
            settings.beta * (token_logprobs(prm, rollout) - reference).sum()
            for rollout, reference in zip(rollouts, reference_logprobs, strict=True)
        ]


def prefix_values(rewards: Tensor) -> Tensor:
    """The mean reward of every prefix (arXiv 2604.13197)."""
    return rewards.cumsum(0) / torch.arange(1, len(rewards) + 1)


def prm_loss(settings: Settings, rewards: Tensor, i: int, rollouts: list[Rollout], scores_before: list[Tensor]) -> Tensor:
    """Cross-entropy between outcome and sigmoid(score) (paper, Eq. 4), DPO against the siblings' mean score from before the update, or
    every prefix's value against the outcome."""
    outcome, score = rollouts[i].outcome, rewards.sum()
    if settings.prm_loss == "prefix_value":
        values = prefix_values(rewards)
        return torch.nn.functional.softplus(settings.margin - (values if outcome > 0.5 else -values)).mean()
    if settings.prm_loss == "ce":
        return torch.nn.functional.binary_cross_entropy_with_logits(score, torch.tensor(outcome))
    siblings = [j for j, other in enumerate(rollouts) if other.group == rollouts[i].group]
    opponents = [scores_before[j] for j in siblings if (rollouts[j].outcome < outcome if outcome > 0.5 else rollouts[j].outcome > outcome)]
    other = torch.stack(opponents).mean() if opponents else torch.zeros(())
    return -torch.nn.functional.logsigmoid((score - other) if outcome > 0.5 else (other - score))


def update_prm(settings: Settings, prm, optimizer, reference_logprobs: list[Tensor], rollouts: list[Rollout]) -> None:
    """One optimizer step on the mean loss over all rollouts."""
    scores_before = prm_scores(settings, prm, reference_logprobs, rollouts)
    optimizer.zero_grad()
    for i, (rollout, reference) in enumerate(zip(rollouts, reference_logprobs, strict=True)):
        rewards = settings.beta * (token_logprobs(prm, rollout) - reference)
        (prm_loss(settings, rewards, i, rollouts, scores_before) / len(rollouts)).backward()
    torch.nn.utils.clip_grad_norm_(prm.parameters(), settings.prm_gradient_clip)
    optimizer.step()


def process_rewards_of_batch(settings: Settings, prm, optimizer, reference, rollouts: list[Rollout]) -> list[Tensor]:
    """Update the PRM and score the batch with it, in the order that its mode says (paper, Algorithm 1, lines 7 and 8).

    The rewards of the rollouts come first, then those of their greedy responses, one per rollout. The update never sees the latter.
    """
    scored = rollouts + [rollout.greedy for rollout in rollouts if rollout.greedy is not None]
    with torch.no_grad():
        from_policy = settings.reference == "policy"
        reference_logprobs = [rollout.behaviour_logprobs if from_policy else token_logprobs(reference, rollout) for rollout in scored]

    def score() -> list[Tensor]:
        with torch.no_grad():
            pairs = zip(scored, reference_logprobs, strict=True)
            return [settings.beta * (token_logprobs(prm, rollout) - log_reference) for rollout, log_reference in pairs]

    rewards = score()
    if settings.prm_update != "offline":
        update_prm(settings, prm, optimizer, reference_logprobs[: len(rollouts)], rollouts)
    return score() if settings.prm_update == "double_forward" else rewards


def to_the_end(rewards: Tensor, discount: float = 1.0) -> Tensor:
    """Sum of the rewards from each token to the last, discounted."""
    sums, ahead = torch.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        ahead = rewards[t] + discount * ahead
        sums[t] = ahead
    return sums


def credited(settings: Settings, rewards: Tensor) -> Tensor:
    """Rewards as they are, or weighed so that their sum is nearly the smallest (arXiv 2504.15275)."""
    return rewards if settings.process_credit == "sum" else rewards * (-rewards / settings.credit_temperature).softmax(0)


def penalised(settings: Settings, rollouts: list[Rollout]) -> list[Rollout]:
    """With the soft over-long penalty off their outcomes (arXiv 2503.14476, Eq. 13)."""
    if not settings.overlong_buffer:
        return rollouts
    start = settings.max_response_tokens - settings.overlong_buffer
    over = [min(max(len(one.behaviour_logprobs) - start, 0), settings.overlong_buffer) / settings.overlong_buffer for one in rollouts]
    return [replace(one, outcome=one.outcome - settings.overlong_penalty * share) for one, share in zip(rollouts, over, strict=True)]


def one_advantage(settings: Settings, i: int, rollouts: list[Rollout], rewards: list[Tensor]) -> tuple[Tensor, float]:
    """Process and outcome part of one rollout's advantages, by the estimator."""
    outcome, group = rollouts[i].outcome, [j for j, other in enumerate(rollouts) if other.group == rollouts[i].group]
    greedy = rollouts[i].greedy
    if settings.estimator == "remax" and greedy is not None:  # arXiv 2310.10505
        return to_the_end(rewards[i] - rewards[len(rollouts) + i].mean()), outcome - greedy.outcome
    if settings.estimator == "reinforce":  # Eq. 8
        return to_the_end(rewards[i]), outcome
    if settings.estimator == "prm_value":  # section 5.4
        return rewards[i] - rewards[i].cumsum(0), outcome
    if settings.estimator == "prefix_baseline":
        return -torch.cat([torch.zeros(1), prefix_values(rewards[i])[:-1]]).sigmoid(), outcome
    if settings.estimator in ("grpo", "reinforce_baseline"):  # Eq. 7; arXiv 2501.03262
        means, outcomes = torch.stack([rewards[j].mean() for j in group]), torch.tensor([rollouts[j].outcome for j in group])
        if settings.standardised == "tokens":  # arXiv 2604.13197
            means = torch.cat([rewards[j] for j in group])
        process, outcome = rewards[i] - means.mean(), outcome - float(outcomes.mean())
        if settings.estimator == "grpo" and settings.divide_by_std:
            process, outcome = process / means.std().clamp(min=1e-4), outcome / float(outcomes.std().clamp(min=1e-6))
        return to_the_end(process, settings.process_discount), outcome
    siblings = [j for j in group if j != i]  # rloo, Eq. 5
    baseline = torch.stack([rewards[j].mean() for j in siblings]).mean()
    return to_the_end(rewards[i] - baseline), outcome - sum(rollouts[j].outcome for j in siblings) / len(siblings)


def advantages(settings: Settings, rollouts: list[Rollout], process_rewards: list[Tensor]) -> list[Tensor]:
    """Advantages of both reward sources, summed, and whitened over all tokens of the batch. (Where the filter lets groups of equal outcomes
    pass, a guard keeps whitening from lifting process rewards alone: `advantage.whitening_factor`.)"""
    process_rewards = [credited(settings, reward) for reward in process_rewards]
    scale = 1.0 if settings.estimator == "prefix_baseline" else scale_of(settings, process_rewards[: len(rollouts)])
    scaled = [reward / scale for reward in process_rewards]
    parts = [one_advantage(settings, i, rollouts, scaled) for i in range(len(rollouts))]
    added = [settings.process_weight * process + outcome for process, outcome in parts]
    return whitened(added) if settings.whiten else added


def scale_of(settings: Settings, process_rewards: list[Tensor]) -> float:
    """What normalisation divides process rewards by: the largest return of the batch."""
    largest = max(float(to_the_end(reward).abs().max()) for reward in process_rewards)
    return 1.0 if largest < settings.normalisation_floor else largest + 1e-6


def whitened(rows: list[Tensor]) -> list[Tensor]:
    every = torch.cat(rows)
    return [(values - every.mean()) / (every.var() + 1e-8).sqrt() for values in rows]


class Critic(torch.nn.Module):
    """PPO's critic: the starting model's layers below one number per token, 0 at first."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model.base_model)
        self.value_head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)

    def values(self, rollout: Rollout) -> Tensor:
        """V of what precedes every response token that the policy sampled."""
        ids = torch.tensor([rollout.prompt + rollout.response])
        hidden = self.backbone(input_ids=ids).last_hidden_state[0, len(rollout.prompt) - 1 : -1]
        return own(rollout, self.value_head(hidden).squeeze(-1))


def ppo_advantages(
    settings: Settings, critic: Critic, rollouts: list[Rollout], process_rewards: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Advantages by generalised advantage estimation, whitened, and the returns that the critic shall learn."""
    scale = scale_of(settings, process_rewards)
    estimates, targets = [], []
    for rollout, process in zip(rollouts, process_rewards, strict=True):
        reward = settings.process_weight * process / scale
        reward[-1] += rollout.outcome
        with torch.no_grad():
            value = critic.values(rollout)
        ahead, estimate = torch.zeros(()), torch.zeros_like(value)
        for t in reversed(range(len(value))):
            next_value = value[t + 1] if t + 1 < len(value) else 0.0
            ahead = reward[t] + next_value - value[t] + settings.trace_decay * ahead
            estimate[t] = ahead
        estimates.append(estimate)
        targets.append(estimate + value)
    return whitened(estimates), targets


def update_critic(settings: Settings, critic: Critic, optimizer, rollouts: list[Rollout], targets: list[Tensor]) -> None:
    """Half the squared error over all response tokens; with one step per batch the value clip cannot bind."""
    optimizer.zero_grad()
    tokens = sum(len(rollout.behaviour_logprobs) for rollout in rollouts)
    for rollout, target in zip(rollouts, targets, strict=True):
        (0.5 * (critic.values(rollout) - target).square().sum() / tokens).backward()
    torch.nn.utils.clip_grad_norm_(critic.parameters(), settings.critic_gradient_clip)
    optimizer.step()


def surrogate(settings: Settings, log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """PPO's clip of every token's ratio, or GSPO's of their geometric mean (arXiv 2507.18071)."""
    low, high = settings.gspo_clip if settings.policy_loss == "gspo" else (settings.clip, settings.clip)
    ratio = (log_ratio.mean() if settings.policy_loss == "gspo" else log_ratio).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def importance(settings: Settings, log_weights: Tensor) -> Tensor:
    """How much each token of a response counts that older weights sampled."""
    low, high = settings.rejection
    product, mean = float(log_weights.sum().exp()), float(log_weights.mean().exp())
    if settings.correction == "sequence_band":
        return torch.full_like(log_weights, product if low <= product <= high else 0.0)
    truncated = log_weights.exp().clamp(max=settings.importance_cap)
    rejected = settings.correction == "geometric_band" and not low <= mean <= high
    return torch.zeros_like(truncated) if rejected else truncated


def divisor(settings: Settings, rollout: Rollout, rollouts: list[Rollout]) -> float:
    """What the sum of a rollout's token losses is divided by; `rollouts` are those in the loss."""
    tokens = [len(one.behaviour_logprobs) for one in rollouts]
    per_rollout = {"sequences": len(rollout.behaviour_logprobs), "sequence_sums": 1, "constant": settings.constant_tokens}
    return sum(tokens) if settings.aggregation == "tokens" else len(rollouts) * per_rollout[settings.aggregation]


def update_policy(settings: Settings, policy, optimizer, rollouts: list[Rollout], advantage: list[Tensor]) -> None:
    """Clipped policy loss, with truncated importance sampling against the sampler."""
    optimizer.zero_grad()
    pairs = [pair for pair in zip(rollouts, advantage, strict=True) if not (settings.mask_truncated and pair[0].truncated)]
    for rollout, values in pairs:
        logprobs = token_logprobs(policy, rollout, settings.temperature)
        proximal = logprobs.detach()
        weight = importance(settings, proximal - rollout.behaviour_logprobs)
        (
            -(weight * surrogate(settings, logprobs - proximal, values)).sum() / divisor(settings, rollout, [one for one, _ in pairs])
        ).backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.policy_gradient_clip)
    optimizer.step()


def update(settings: Settings, policy, critic, rollouts: list[Rollout], process_rewards: list[Tensor]) -> None:
    """One optimizer step of the policy, and with ppo one of the critic; each comes with its optimizer."""
    rollouts = penalised(settings, rollouts)
    if settings.estimator == "ppo":
        advantage, targets = ppo_advantages(settings, critic[0], rollouts, process_rewards)
        update_critic(settings, critic[0], critic[1], rollouts, targets)
    else:
        advantage = advantages(settings, rollouts, process_rewards)
    update_policy(settings, policy[0], policy[1], rollouts, advantage)


def train(
    model_path: str, settings: Settings, respond: Callable[..., Rollout] = respond
) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    """Run PRIME (paper, Algorithm 1); returns policy, PRM and critic (which only ppo trains)."""
    tokenizer = load_tokenizer(model_path)
    end_ids = end_token_ids(tokenizer, model_path)
    policy = load_causal_lm(model_path)
    prm, reference, critic = copy.deepcopy(policy), copy.deepcopy(policy).requires_grad_(False), Critic(policy)
    policy_optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.policy_learning_rate, eps=settings.adam_eps, weight_decay=0.0)
    prm_optimizer = torch.optim.AdamW(prm.parameters(), lr=settings.prm_learning_rate, eps=settings.adam_eps, weight_decay=0.0)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=settings.critic_learning_rate, eps=settings.adam_eps, weight_decay=0.0)
    prompts = Prompts(settings, list(load_tasks(TasksSection(source="chain", chain=settings.chain), "train")))
    for step in range(1, settings.steps + 1):
        batch = sample_batch(settings, prompts, policy, tokenizer, end_ids, respond)
        rollouts = [rollout for group in batch for rollout in group]
        process_rewards = process_rewards_of_batch(settings, prm, prm_optimizer, reference, rollouts)
        update(settings, (policy, policy_optimizer), (critic, critic_optimizer), rollouts, process_rewards)
        mean = sum(rollout.outcome for rollout in rollouts) / len(rollouts)
        print(f"step {step}: outcome reward {mean:.3f} over {len(rollouts)} rollouts")  # noqa: T201
    return policy, prm, critic


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="PRIME in one file.")
    parser.add_argument("model", help="directory of the starting model, for example runs/chain-sft")
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    train(arguments.model, Settings(steps=arguments.steps))
