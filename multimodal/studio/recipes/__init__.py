"""Recipes: one way of teaching a file, each a class as `studio.context.Recipe` says.

They run in the job's own process; this module imports none of them, nor the libraries they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import cast

from multimodal.errors import ConfigurationError
from multimodal.studio.context import Recipe
from multimodal.studio.settings import Method

_PACKAGE = __name__
RECIPES: dict[Method, str] = {
    "lora": f"{_PACKAGE}.supervised:SupervisedRecipe",
    "qlora": f"{_PACKAGE}.supervised:SupervisedRecipe",
    "full": f"{_PACKAGE}.supervised:SupervisedRecipe",
    "dpo": f"{_PACKAGE}.dpo:DpoRecipe",
    "kto": f"{_PACKAGE}.kto:KtoRecipe",
    "reward": f"{_PACKAGE}.reward:RewardRecipe",
    "grpo": f"{_PACKAGE}.grpo:GrpoRecipe",
    "classify": f"{_PACKAGE}.classify:ClassifyRecipe",
    "diffusion": f"{_PACKAGE}.diffusion:DiffusionRecipe",
    "style": f"{_PACKAGE}.style:StyleRecipe",
    "describe": f"{_PACKAGE}.describe:DescribeRecipe",
    "transcribe": f"{_PACKAGE}.transcribe:TranscribeRecipe",
}
"""The method of a job to "module:Class"."""
LIBRARIES = ("trl", "peft", "datasets", "jiwer")
"""What the extra `studio` installs."""


def find_recipe(method: Method) -> type[Recipe]:
    """The class of that method's recipe. Raises ConfigurationError without the extra `studio`."""
    check_libraries()
    module, _, name = RECIPES[method].partition(":")
    return cast(type[Recipe], getattr(import_module(module), name))


def check_libraries() -> None:
    """Raise ConfigurationError, one sentence with the way out, unless the extra `studio` is
    installed."""
    check_packages(LIBRARIES, "Fine-tuning")


def check_packages(names: Sequence[str], what: str = "This format") -> None:
    """Raise ConfigurationError, one sentence with the way out, unless the packages that `what`
    needs are installed."""
    if missing := [name for name in names if find_spec(name) is None]:
        raise ConfigurationError(
            f"{what} needs {', '.join(missing)}, which are not installed: run "
            'pip install "multimodal-chat[studio]", or pip install -e ".[studio]" in a checkout.'
        )
