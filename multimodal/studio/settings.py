"""What a job is to do: the one declaration of every option of `multimodal finetune`, of the
studio's page, and of the TOML file by which the same job runs on another machine."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from multimodal.catalog.architectures import StrictModel
from multimodal.catalog.cards import Choice, Name, first_fault
from multimodal.errors import SettingsError

Method = Literal[
    "lora",
    "qlora",
    "full",
    "dpo",
    "kto",
    "reward",
    "grpo",
    "classify",
    "diffusion",
    "style",
    "transcribe",
    "describe",
]
Augmentation = Literal["crops_and_flips", "crops", "none"]
TrainedWeights = Literal["all", "decoder", "adapter"]
Reward = Literal["format", "length", "exact_answer", "no_repetition", "code_parses"]
Role = Literal[
    "text", "prompt", "completion", "messages", "chosen", "rejected", "label", "system", "answer"
]

SHARED_METHODS: frozenset[Method] = frozenset(
    {"lora", "qlora", "full", "classify", "transcribe", "describe"}
)
"""Those whose batches several devices may share."""

CHATS = "chats"
"""The name of the data that the person's own chats are made into."""
HUB = "hub:"
"""What the name of a data set on the hub begins with: hub:owner/name."""


class JobSettings(StrictModel):
    """One job. Batch sizes count samples; `batch * accumulation` is what one update sees."""

    name: Name = Field(description="What the result is called; the name of its card.")
    model: Choice = Field(description="The card, or the result of an earlier job, to begin with.")
    method: Method = Field("lora", description="How it is taught.")
    data: str = Field(
        min_length=1, description="A file, a folder, hub:OWNER/NAME, or chats for your own."
    )
    columns: Mapping[str, Role] = Field(
        default_factory=dict, description="What a column of the data is, as COLUMN=ROLE."
    )
    test_share: float = Field(0.1, gt=0, le=0.5, description="How much of the data is held out.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of the split, the order and the adapter.")
    epochs: PositiveFloat = Field(3.0, description="How often the data is gone through.")
    max_steps: PositiveInt | None = Field(None, description="At most so many updates.")
    max_length: int = Field(512, ge=8, description="Tokens of a sample; what is longer is cut.")
    may_shorten: bool = Field(
        False, description="Let samples be cut to 256 tokens where memory runs out."
    )
    batch: PositiveInt = Field(4, description="Samples that are computed at once.")
    accumulation: PositiveInt = Field(4, description="Batches before each update.")
    devices: PositiveInt = Field(
        1, description="Graphics cards that share the batches of an update (accelerate launch)."
    )
    learning_rate: PositiveFloat | None = Field(
        None, description="The method's usual one unless given."
    )
    scheduler: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the learning rate falls."
    )
    warmup_share: float = Field(0.0, ge=0, lt=1, description="Of the updates, while it rises.")
    weight_decay: float = Field(0.01, ge=0, description="How strongly weights are drawn to zero.")
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto", description="The smallest change that fits unless given."
    )
    offload: bool = Field(False, description="Keep what does not fit in host memory (slow).")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="What the device computes quickly unless given."
    )
    gradient_checkpointing: bool | None = Field(
        None, description="Recompute activations to save memory; on a card unless given."
    )
    packing: bool = Field(False, description="Put several samples into one row.")
    loss_on: Literal["answers", "everything"] = Field(
        "answers", description="Which tokens are trained, where a sample has answers."
    )
    lora_rank: PositiveInt = Field(16, description="Rank of the adapter.")
    lora_alpha: PositiveInt = Field(32, description="Scale of the adapter.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the adapter.")
    evaluate_every: PositiveInt | None = Field(
        None, description="Updates between evaluations; each epoch unless given."
    )
    save_every: PositiveInt | None = Field(
        None, description="Updates between checkpoints; with each evaluation unless given."
    )
    patience: int = Field(
        3, ge=0, description="Evaluations without improvement before it ends; 0: never."
    )
    beta: PositiveFloat | None = Field(
        None, description="DPO, KTO, GRPO: how close to the first model; the method's unless given."
    )
    rewards: tuple[Reward, ...] = Field((), description="GRPO: what an answer is rewarded for.")
    reward_file: Path | None = Field(
        None, description="GRPO: Python with functions reward_*(completions, **columns)."
    )
    run_code: bool = Field(False, description="Run the code in --reward-file.")
    generations: int = Field(8, ge=2, description="GRPO: answers to each prompt.")
    answer_tokens: PositiveInt = Field(64, description="GRPO: the longest answer.")
    answer_words: PositiveInt = Field(
        25, description="GRPO: words of an answer that the reward for its length aims at."
    )
    augmentation: Augmentation = Field(
        "crops_and_flips",
        description="How pictures are varied; crops alone where left and right matter.",
    )
    resolution: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Diffusion and style: pixels on a side of what is drawn; the model's own "
        "unless given.",
    )
    language: str | None = Field(
        None, description="Transcribe: what is spoken, such as en; the model's own unless given."
    )
    trained_weights: TrainedWeights = Field(
        "all",
        description="Transcribe: every weight, the decoder's alone (quicker), or a LoRA adapter "
        "that is merged at the end (for large models).",
    )
    four_bits: bool = Field(
        False,
        description="Describe: keep the model in 4 bits beside its adapter, for one that would not "
        "fit otherwise.",
    )
    install_failed: bool = Field(
        False, description="Offer the result in the chat even if it did not learn."
    )

    @model_validator(mode="after")
    def _check_rewards(self) -> Self:
        if self.reward_file is not None and not self.run_code:
            raise ValueError(
                "a reward file is a program that runs with your rights; add --run-code once you "
                "have read it"
            )
        return self

    @property
    def is_adapter(self) -> bool:
        """Whether the result is an adapter beside the model it began with."""
        return self.method not in {"full", "classify", "diffusion", "transcribe"}

    @property
    def is_packed(self) -> bool:
        """Whether the weights beside the adapter are in 4 bits."""
        return self.method == "qlora" or (self.method == "describe" and self.four_bits)

    def as_toml(self) -> str:
        """What `read_job_settings` reads; values that are not set are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True, exclude_defaults=True))

    def command(self) -> str:
        """The exact command line that runs the same job, for a POSIX shell."""
        words = ["multimodal", "finetune"]
        for field, value in self.model_dump(mode="json", exclude_defaults=True).items():
            words += _option(field, value)
        return shlex.join(words)


def _option(field: str, value: Any) -> list[str]:
    flag = f"--{field.replace('_', '-')}"
    match value:
        case True:
            return [flag]
        case False:
            return [f"--no-{flag.removeprefix('--')}"]
        case dict():
            return [word for key, one in value.items() for word in (flag, f"{key}={one}")]
        case list() | tuple():
            return [word for one in value for word in (flag, str(one))]
    return [flag, str(value)]


def read_job_settings(path: Path) -> JobSettings:
    """The settings in that TOML file. Raises SettingsError naming file, field and the likely
    spelling."""
    try:
        return job_settings(tomllib.loads(path.read_text("utf-8-sig")))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} is not valid TOML: {error}") from error
    except SettingsError as error:
        raise SettingsError(f"{path.name}: {error}") from error


def job_settings(given: Mapping[str, Any]) -> JobSettings:
    """Checked settings. Raises SettingsError, one sentence that names the field."""
    try:
        return JobSettings.model_validate(dict(given))
    except ValidationError as error:
        raise SettingsError(first_fault(error, JobSettings)) from error
