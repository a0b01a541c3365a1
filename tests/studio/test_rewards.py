"""What GRPO rewards, and reward functions of a person's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal.errors import RewardError
from multimodal.studio.rewards import (
    load_reward_file,
    make_reward_length,
    reward_code_parses,
    reward_exact_answer,
    reward_format,
    reward_functions,
    reward_no_repetition,
)
from multimodal.studio.settings import Reward


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Because 2 + 2 is 4.\n<answer>4</answer>\n", 1.0),
        ("<answer>several\nlines</answer>", 1.0),
        ("<answer>4</answer> I am sure.", 0.75),
        ("<answer> </answer>", 0.75),
        ("<answer>4</answer> <answer>5</answer>", 0.25),
        ("<answer>4", 0.25),
        ("</answer>4<answer>", 0.5),
        ("4", 0.0),
        ("", 0.0),
    ],
)
def test_format_counts_a_quarter_for_each_part(text: str, expected: float) -> None:
    assert reward_format([text]) == [expected]


@pytest.mark.parametrize(("words", "expected"), [(0, 0.0), (2, 0.5), (4, 1.0), (6, 0.5), (9, 0.0)])
def test_length_falls_in_a_line_from_its_target(words: int, expected: float) -> None:
    assert make_reward_length(4)(["word " * words]) == [expected]


def test_signs_of_a_script_without_spaces_count_as_words() -> None:
    assert make_reward_length(4)(["今日は雨"]) == [1.0]
    assert reward_no_repetition(["雨雨雨雨雨"]) == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("It is <answer>Paris.</answer>", "paris", 1.0),
        ("<answer>London</answer> or rather <answer>Paris</answer>", "Paris", 1.0),
        ("Paris  is\nit", "paris is it", 1.0),
        ("It is Paris", "Paris", 0.0),
        ("3 boxes of 4. #### 12", "so 12 of them #### 12.0", 1.0),
        ("<answer>1,200</answer>", 1200, 1.0),
        ("<answer>-.5</answer>", "-0.50", 1.0),
        ("<answer>12</answer>", "13", 0.0),
        ("<answer></answer>", "0", 0.0),
        ("", "Paris", 0.0),
    ],
)
def test_exact_answer_compares_what_is_meant(text: str, answer: object, expected: float) -> None:
    assert reward_exact_answer([text], answer=[answer]) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four five", 1.0),
        ("a b c a b c", 0.75),
        ("no no no no no no", 0.25),
        ("two words", 1.0),
        ("", 0.0),
        ("... !!!", 0.0),
    ],
)
def test_no_repetition_counts_runs_of_three_words(text: str, expected: float) -> None:
    assert reward_no_repetition([text]) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Here:\n```python\nprint(1)\n```\n", 1.0),
        ("```py\nx = 1\n```", 1.0),
        ("```python\nx = 1\n```\n```python\nx = (\n```", 0.5),
        ("```python\n# nothing\n```", 0.0),
        ("```python\n```", 0.0),
        ("```python\nx = '\\d'\n```", 1.0),
        ("```python\nx = 1", 0.0),
        ("x = 1", 0.0),
        ("```python\n\0\n```", 0.0),
        ("```python\n" + "(" * 5000 + "\n```", 0.0),
    ],
)
def test_code_parses_counts_blocks_of_valid_python(text: str, expected: float) -> None:
    assert reward_code_parses([text]) == [expected]


def test_code_that_parses_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    text = f"```python\nopen({str(trace)!r}, 'w').close()\n```"
    assert reward_code_parses([text]) == [1.0]
    assert not trace.exists()


@given(st.text(), st.text())
def test_every_reward_of_any_text_is_between_0_and_1(text: str, answer: str) -> None:
    for function in reward_functions(get_args(Reward), words=5):
        (value,) = function(completions=[text], prompts=["?"], answer=[answer], trainer_state=None)
        assert 0 <= value <= 1


def test_answers_in_messages_count_like_their_text() -> None:
    messages = [[{"role": "assistant", "content": "<answer>4</answer>"}]]
    for function in reward_functions(get_args(Reward), words=5):
        plain = function(completions=["<answer>4</answer>"], answer=["4"])
        assert function(completions=messages, answer=["4"]) == plain


def test_rewards_are_those_asked_for_by_name() -> None:
    names = [function.__name__ for function in reward_functions(["length", "format"], words=5)]
    assert names == ["reward_format", "reward_length"]


def _write(tmp_path: Path, source: str) -> Path:
    path = tmp_path / "own.py"
    path.write_text(source, "utf-8")
    return path


def test_functions_of_a_reward_file_are_given_the_columns(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "from dataclasses import dataclass\n"
        "from math import sqrt as reward_of_a_library\n"
        "from trl.rewards import think_format_reward as reward_think\n"
        "@dataclass\n"
        "class Rule:\n    word: str\n"
        "def helper(text):\n    return text\n"
        "def reward_word(completions, word, **columns):\n"
        "    return [Rule(w).word in helper(c) for c, w in zip(completions, word)]\n"
        "def reward_short(completions, **columns):\n"
        "    return [1 / (1 + len(c)) for c in completions]\n",
    )
    own = load_reward_file(path)
    names = [function.__name__ for function in own]
    assert names == ["think_format_reward", "reward_word", "reward_short"]
    assert own[1](completions=["red", "sea"], word=["re", "re"], prompts=[]) == [1.0, 0.0]
    assert own[2](completions=["", "abc"]) == [1.0, 0.25]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = 1\ndef reward(:\n", "line 2: "),
        ("x = 1\n\nx / 0\n", "line 3: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named"),
        ("def score(completions):\n    return []\n", "has no function that begins with reward_"),
    ],
)
def test_faulty_reward_file_is_told_with_its_line(tmp_path: Path, source: str, told: str) -> None:
    path = _write(tmp_path, source)
    with pytest.raises(RewardError) as error:
        load_reward_file(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)


def test_reward_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"none\.py cannot be read"):
        load_reward_file(tmp_path / "none.py")
    (tmp_path / "own.txt").write_text("x = 1", "utf-8")
    with pytest.raises(RewardError, match=r"own\.txt is no Python file"):
        load_reward_file(tmp_path / "own.txt")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("x = {}\n    return x['key']", "line 4: KeyError: 'key'"),
        ("return int('one') + len(\n        completions)", "line 3: ValueError"),
        ("return [1.0]", "line 2: reward_own must give one number for each of the 2 completions"),
        ("return ['a', 'b']", "line 2: reward_own must give one number for each of the 2"),
        ("return [float('nan')] * 2", "line 2: reward_own must give one number"),
        ("return None", "line 2: reward_own must give one number"),
        ("raise SystemExit", "line 3: SystemExit"),
    ],
)
def test_failing_reward_function_is_told_with_its_line(
    tmp_path: Path, body: str, told: str
) -> None:
    path = _write(tmp_path, f"\ndef reward_own(completions, **columns):\n    {body}\n")
    (function,) = load_reward_file(path)
    with pytest.raises(RewardError) as error:
        function(completions=["a", "b"])
    assert told in str(error.value)


def test_line_is_told_of_a_file_that_is_named_relatively(tmp_path: Path) -> None:
    path = Path(os.path.relpath(_write(tmp_path, "\nx / 0\n")))
    with pytest.raises(RewardError, match="line 2: NameError"):
        load_reward_file(path)


def test_reward_function_that_is_async_is_told(tmp_path: Path) -> None:
    path = _write(tmp_path, "async def reward_own(completions, **columns):\n    return [1.0]\n")
    (function,) = load_reward_file(path)
    with pytest.raises(RewardError, match="line 1: reward_own is async; use plain def"):
        function(completions=["a"])
