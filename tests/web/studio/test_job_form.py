"""What a person fills in becomes the settings of a job, or a sentence beside each field."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from multimodal.errors import RequestError
from multimodal.studio.settings import JobSettings, Method, job_settings
from multimodal.web.studio.form import (
    FIELDS,
    METHODS,
    SHAPES,
    FormError,
    fields_of,
    read_form,
    read_toml,
)

NAMED = {"name": "mine", "model": "small", "method": "lora"}


def read(is_own: bool = True, **fields: Any) -> JobSettings:
    return read_form({**NAMED, **fields}, "/data/a.txt", is_own)


def fault(of: str, /, **fields: Any) -> str:
    with pytest.raises(FormError) as caught:
        read(**fields)
    return caught.value.faults[of]


def test_what_is_left_empty_is_left_to_the_defaults() -> None:
    empty = dict.fromkeys(FIELDS, "")
    assert read(**empty) == JobSettings(name="mine", model="small", data="/data/a.txt")
    assert read(**empty).command() == (
        "multimodal finetune --name mine --model small --data /data/a.txt"
    )


def test_numbers_are_read_as_they_are_typed() -> None:
    found = read(epochs=" 1.5 ", batch="2", learning_rate="5e-5", packing=True)
    assert (found.epochs, found.batch, found.learning_rate, found.packing) == (1.5, 2, 5e-5, True)


@pytest.mark.parametrize(
    ("name", "typed", "sentence"),
    [
        ("name", "", "Give the result a name."),
        ("name", "My Model", "Use small letters, digits, dots and dashes, beginning with"),
        ("epochs", "many", "Write a number such as 0.1."),
        ("epochs", "0", "Must be greater than 0."),
        ("batch", "2.5", "Write a whole number."),
        ("max_length", "4", "Must be 8 or more."),
        ("test_share", "0.9", "Must be 0.5 or less."),
        ("scheduler", "steps", "Choose one of 'linear', 'cosine' or 'constant'."),
        ("columns", "question", "“question” does not read COLUMN=ROLE."),
        ("columns", "question=thing", "“question=thing” does not read COLUMN=ROLE."),
    ],
)
def test_a_fault_is_a_sentence_of_its_field(name: str, typed: str, sentence: str) -> None:
    assert fault(name, **{name: typed}).startswith(sentence)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(FormError) as caught:
        read(name="", epochs="x", batch="-1")
    assert set(caught.value.faults) == {"name", "epochs", "batch"}


def test_a_field_of_another_method_is_not_read() -> None:
    assert read(method="lora", generations="1").generations == 8
    assert fault("generations", method="grpo", generations="1") == "Must be 2 or more."


def test_only_who_runs_the_machine_names_a_program_as_the_reward() -> None:
    asked = {"method": "grpo", "reward_file": "/rewards/r.py", "run_code": True}
    assert read(**asked).run_code
    found = read(is_own=False, **asked)
    assert (found.reward_file, found.run_code) == (None, False)


def test_a_reward_file_needs_its_switch() -> None:
    assert "run-code" in fault("reward_file", method="grpo", reward_file="/rewards/r.py")


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 2.0, "learning_rate": 5e-5, "packing": True, "loss_on": "everything"},
        {"columns": {"q": "prompt", "a": "completion"}, "gradient_checkpointing": False},
        {"method": "grpo", "rewards": ["format", "length"], "generations": 4},
        {"method": "dpo", "beta": 0.2, "gradient_checkpointing": True},
    ],
)
def test_settings_fill_the_form_and_come_back_the_same(settings: dict[str, Any]) -> None:
    asked = job_settings({"name": "mine", "model": "small", "data": "/data/a.txt", **settings})
    assert read_form(fields_of(asked), "/data/a.txt", True) == asked
    assert read_toml(asked.as_toml()) == fields_of(asked)


@pytest.mark.parametrize("text", ["", "= nothing", "name = 3", 'name = "a"\nmodle = "b"'])
def test_what_is_no_file_of_settings_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(RequestError, match="These are no settings of a job"):
        read_toml(text)


def test_every_method_and_every_setting_is_on_the_form() -> None:
    assert set(METHODS) == set(SHAPES) == set(get_args(Method))
    elsewhere = {"name", "model", "method", "data", "install_failed"}
    assert set(FIELDS) | elsewhere == set(JobSettings.model_fields)
