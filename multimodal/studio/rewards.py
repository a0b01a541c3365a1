"""What GRPO rewards an answer for: functions of the text, each between 0 and 1.

All have the signature of TRL's reward functions: `completions` (strings, or lists of one message)
and the columns of the data by name, each one value a completion; the result is one number a
completion. None of them runs what a model wrote.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from multimodal.errors import RewardError
from multimodal.studio.settings import Reward

Completion = str | Sequence[Mapping[str, Any]]
RewardFunction = Callable[..., list[float]]

PREFIX = "reward_"
"""What the name of a reward function begins with, here and in a reward file."""
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
# Han and kana are written without spaces: each sign counts as a word.
_WORD = re.compile(r"[぀-ヿ㐀-䶿一-鿿]|[^\W぀-ヿ㐀-䶿一-鿿]+")
_PYTHON = re.compile(r"^[ \t]*```(?:python|py)[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?")
NGRAM = 3


def text_of(completion: Completion) -> str:
    """What the model wrote; of a completion in messages, the last one's content."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def reward_format(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Whether the answer stands within <answer> and </answer> at the end, after reasoning of any
    length. A quarter each for: exactly one opening tag, exactly one closing tag, something between
    them, and nothing after them; in parts, because a model that never writes the whole of it would
    see no difference between its answers."""
    return [_format_parts(text_of(completion)) for completion in completions]


def _format_parts(text: str) -> float:
    found = _ANSWER.search(text)
    told = [
        text.count("<answer>") == 1,
        text.count("</answer>") == 1,
        found is not None and bool(found[1].strip()),
        found is not None and not text[found.end() :].strip(),
    ]
    return sum(told) / len(told)


def make_reward_length(words: int) -> RewardFunction:
    """The reward for answers of about that many words: 1 for exactly as many, falling in a line to
    0 for none and for twice as many."""

    def reward_length(completions: Sequence[Completion], **columns: Any) -> list[float]:
        counts = (len(words_of(text_of(completion))) for completion in completions)
        return [max(0.0, 1 - abs(count - words) / words) for count in counts]

    return reward_length


def reward_exact_answer(
    completions: Sequence[Completion], answer: Sequence[object], **columns: Any
) -> list[float]:
    """1 for the answer of the data's column `answer`, else 0. Compared is what stands within the
    last <answer> tags, or after #### (as in GSM8K), or the whole text; without regard to case,
    spacing and a full stop, and numbers by their value."""
    pairs = zip(completions, answer, strict=True)
    return [float(_final(text_of(given)) == _final(str(expected))) for given, expected in pairs]


def _final(text: str) -> str | float:
    tagged = _ANSWER.findall(text)
    text = tagged[-1] if tagged else text.rpartition("####")[2]
    text = " ".join(text.casefold().split()).removesuffix(".").strip()
    is_number = any(sign.isdecimal() for sign in text) and _NUMBER.fullmatch(text)
    return float(text.replace(",", "")) if is_number else text


def reward_no_repetition(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """The share of runs of three words that are not a repetition of an earlier one; 1 for fewer
    than three words, and 0 for none at all."""
    return [_distinct(words_of(text_of(completion))) for completion in completions]


def _distinct(words: list[str]) -> float:
    grams = [tuple(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)]
    return len(set(grams)) / len(grams) if grams else float(bool(words))


def reward_code_parses(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """The share of the blocks fenced with ```python that are valid Python and do something; 0
    without one. The code is read, never run."""
    return [_parsing_share(text_of(completion)) for completion in completions]


def _parsing_share(text: str) -> float:
    blocks = _PYTHON.findall(text)
    return sum(map(_parses, blocks)) / len(blocks) if blocks else 0.0


def _parses(source: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            return bool(ast.parse(source).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def reward_functions(rewards: Sequence[Reward], words: int) -> list[RewardFunction]:
    """Those of that names. `words`: what `length` aims at."""
    made: dict[Reward, RewardFunction] = {
        "format": reward_format,
        "length": make_reward_length(words),
        "exact_answer": reward_exact_answer,
        "no_repetition": reward_no_repetition,
        "code_parses": reward_code_parses,
    }
    return [made[name] for name in get_args(Reward) if name in rewards]


def load_reward_file(path: Path) -> list[RewardFunction]:
    """The functions reward_*(completions, **columns) of that file, written in it or imported from a
    library, in its order. The file is run:
    call this in the job's process alone, and only after the person allowed it.

    Raises RewardError with file and line for a file that cannot be read, fails, or has none. The
    functions raise it too, when they fail or give something else than one number a completion.
    """
    path = path.absolute()
    module = _run_file(path)
    own = [
        _with_located_errors(function, path)
        for name, function in vars(module).items()
        if name.startswith(PREFIX) and inspect.isfunction(function)
    ]
    if not own:
        raise RewardError(f"{path} has no function that begins with {PREFIX}.")
    return own


def _run_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reward_file", path)
    if spec is None or spec.loader is None:
        raise RewardError(f"{path} is no Python file; its name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses and typing look a class's module up.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        if not path.is_file():
            raise RewardError(f"{path} cannot be read ({error.strerror or error}).") from error
        raise RewardError(_where(path, error)) from error
    except (Exception, SystemExit) as error:
        raise RewardError(_where(path, error)) from error
    return module


def _with_located_errors(function: RewardFunction, path: Path) -> RewardFunction:
    """`function` with its errors told by file and line."""

    @wraps(function)
    def told(completions: Sequence[Completion], **columns: Any) -> list[float]:
        try:
            given: Any = function(completions=completions, **columns)
        except (Exception, SystemExit) as error:
            raise RewardError(_where(path, error)) from error
        code = function.__code__
        place = f"{code.co_filename}, line {code.co_firstlineno}: {function.__name__}"
        if inspect.iscoroutine(given):
            given.close()
            raise RewardError(f"{place} is async; use plain def.")
        values = list(_numbers(given))
        if len(values) != len(completions):
            raise RewardError(
                f"{place} must give one number for each of the {len(completions)} completions."
            )
        return values

    return told


def _numbers(given: Any) -> Iterator[float]:
    """The finite numbers that `given` begins with."""
    try:
        for one in given:
            value = float(one)
            if not math.isfinite(value):
                return
            yield value
    except (TypeError, ValueError):
        return


def _where(path: Path, error: BaseException) -> str:
    """What went wrong, at the innermost line that is in `path`."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}: {error.msg}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f"{path}, line {lines[-1]}: {what}" if lines else f"{path}: {what}"
