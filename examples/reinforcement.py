"""A policy learns to balance a pole, by proximal policy optimization, in half a minute on a CPU.

    pip install -e ".[examples]"
    python examples/reinforcement.py [--steps 60000] [--seed 0] [--out reinforcement.png]

CartPole-v1 of gymnasium: a cart is pushed left or right, each step that the pole stays up is worth
1, and an episode ends with its fall or after 500 steps. A small network sees the cart's and the
pole's positions and speeds, and is taught by PPO (Schulman et al. 2017) with generalized advantage
estimation (Schulman et al. 2016). At the end 20 episodes that it never saw are played with what it
would do most likely, as they were before the training, and the return of each episode that it
learned from is drawn into a plot.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import matplotlib as mpl
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

mpl.use("Agg")
from matplotlib import pyplot

ENVIRONMENT = "CartPole-v1"
CARTS, STEPS = 8, 128
"""Episodes that go on beside one another, and steps of each before an update."""
EPOCHS, BATCH, RATE, CLIP, DISCOUNT, TRACE, MOST_GRADIENT = 4, 256, 2.5e-3, 0.2, 0.98, 0.8, 0.5
"""Batch, clip, discount and trace are those of Raffin's RL Baselines3 Zoo for this environment; the
others were tried here."""
EPISODES = 20
"""That are played to judge a policy."""


class Policy(nn.Module):
    """`act` gives logits of the actions, `value` what an observation is worth."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.act = _network(observations, actions)
        self.value = _network(observations, 1)


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


@dataclass(frozen=True)
class Rollout:
    """What happened in STEPS steps of CARTS episodes, one row a step and cart."""

    observations: torch.Tensor
    actions: torch.Tensor
    log_probabilities: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class Player:
    """Plays CARTS episodes at once, and begins a new one where one ends."""

    def __init__(self, seed: int) -> None:
        self._carts = gymnasium.make_vec(
            ENVIRONMENT,
            CARTS,
            "sync",
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        )
        self._seen, _ = self._carts.reset(seed=seed)
        self._scores = np.zeros(CARTS)
        self.finished: list[float] = []
        """The return of each episode that ended."""

    @torch.no_grad()
    def play(self, policy: Policy) -> Rollout:
        seen, acted, likely, worth, paid, goes_on = [], [], [], [], [], []
        for _ in range(STEPS):
            observation = torch.as_tensor(self._seen)
            choice = Categorical(logits=policy.act(observation))
            action = choice.sample()
            seen.append(observation)
            acted.append(action)
            likely.append(choice.log_prob(action))
            worth.append(policy.value(observation).squeeze(1))
            self._seen, reward, fell, ended, more = self._carts.step(action.numpy())
            reward = reward.astype(np.float32)
            self._scores += reward
            for cart in np.flatnonzero(fell | ended):
                self.finished.append(float(self._scores[cart]))
                self._scores[cart] = 0
                if not fell[cart]:  # it would have gone on, and that is worth something
                    last = torch.as_tensor(more["final_obs"][cart])
                    reward[cart] += DISCOUNT * policy.value(last).item()
            paid.append(torch.as_tensor(reward))
            goes_on.append(torch.as_tensor(1 - (fell | ended).astype(np.float32)))
        worth.append(policy.value(torch.as_tensor(self._seen)).squeeze(1))
        advantages = _advantages(paid, worth, goes_on)
        returns = advantages + torch.stack(worth[:-1])
        parts = (torch.stack(seen), torch.stack(acted), torch.stack(likely), advantages, returns)
        return Rollout(*(part.flatten(0, 1) for part in parts))


def _advantages(
    rewards: Sequence[torch.Tensor], values: Sequence[torch.Tensor], goes_on: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Generalized: (steps, carts). `values` has one more, of what comes after."""
    found, later = [], torch.zeros(CARTS)
    for at in reversed(range(len(rewards))):
        surprise = rewards[at] + DISCOUNT * values[at + 1] * goes_on[at] - values[at]
        later = surprise + DISCOUNT * TRACE * goes_on[at] * later
        found.append(later)
    return torch.stack(found[::-1])


def train(policy: Policy, steps: int, seed: int) -> list[float]:
    """The return of each episode, in their order."""
    player = Player(seed)
    optimizer = torch.optim.Adam(policy.parameters(), RATE)
    updates = max(1, steps // (CARTS * STEPS))
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = RATE * (1 - update / updates)
        rollout = player.play(policy)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(rollout.actions)).split(BATCH):
                optimizer.zero_grad()
                _loss(policy, rollout, chosen).backward()
                nn.utils.clip_grad_norm_(policy.parameters(), MOST_GRADIENT)
                optimizer.step()
        if (update + 1) % max(1, updates // 10) == 0 and player.finished:
            recent = statistics.mean(player.finished[-20:])
            print(f"step {(update + 1) * CARTS * STEPS}: the last episodes have {recent:.0f}")
    return player.finished


def _loss(policy: Policy, rollout: Rollout, chosen: torch.Tensor) -> torch.Tensor:
    choice = Categorical(logits=policy.act(rollout.observations[chosen]))
    ratio = (choice.log_prob(rollout.actions[chosen]) - rollout.log_probabilities[chosen]).exp()
    gained = rollout.advantages[chosen]
    gained = (gained - gained.mean()) / (gained.std() + 1e-8)
    better = torch.min(ratio * gained, ratio.clamp(1 - CLIP, 1 + CLIP) * gained).mean()
    value = policy.value(rollout.observations[chosen]).squeeze(1)
    missed = (value - rollout.returns[chosen]).square().mean()
    loss: torch.Tensor = missed / 2 - better
    return loss


@torch.no_grad()
def judge(policy: Policy, seed: int) -> float:
    """The mean return of EPISODES episodes, in each of which it does what is most likely."""
    cart, scores = gymnasium.make(ENVIRONMENT), []
    for episode in range(EPISODES):
        seen, _ = cart.reset(seed=seed + 1000 + episode)
        score, is_over = 0.0, False
        while not is_over:
            action = int(policy.act(torch.as_tensor(seen)).argmax())
            seen, reward, fell, ended, _ = cart.step(action)
            score, is_over = score + float(reward), fell or ended
        scores.append(score)
    return statistics.mean(scores)


def plot(returns: Sequence[float], before: float, after: float, out: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    window = min(20, max(1, len(returns)))
    smooth = np.convolve(returns, np.ones(window) / window, "valid")
    axes.plot(returns, linewidth=0.5, alpha=0.4, label="an episode")
    axes.plot(np.arange(len(smooth)) + window - 1, smooth, label=f"mean of {window}")
    axes.axhline(before, linestyle=":", label="judged before")
    axes.axhline(after, linestyle="--", label="judged after")
    axes.set_xlabel("Episode")
    axes.set_ylabel("Return")
    axes.legend()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> float:
    """The mean return after the training; 500 is the most."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("reinforcement.png"))
    asked = parser.parse_args(arguments)
    torch.manual_seed(asked.seed)
    torch.set_num_threads(1)  # the network is too small for more
    policy = Policy(4, 2)
    before = judge(policy, asked.seed)
    returns = train(policy, asked.steps, asked.seed)
    after = judge(policy, asked.seed)
    plot(returns, before, after, asked.out)
    print(
        f"In {EPISODES} episodes the pole stayed up for {before:.0f} steps on average before, and "
        f"for {after:.0f} now, of 500. Drawn into {asked.out}."
    )
    return after


if __name__ == "__main__":
    main()
