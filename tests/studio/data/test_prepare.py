"""Data is read whatever its form, and refused in one sentence that says where it is wrong."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
import stat
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from job_data import CHAT, prepared, settings, write, write_jsonl

from multimodal.errors import DataError
from multimodal.studio.data.prepare import prepare_data, read_rows, write_data

ONE = {"prompt": "What is red?", "completion": "The car."}
TWO = {"prompt": "What is green?", "completion": "The tree."}


def asked(*turns: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[index % 2], "content": turn}
        for index, turn in enumerate(turns)
    ]


def answered(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def rows_of(data: Path, method: str = "lora", **more: Any) -> list[dict[str, Any]]:
    """All of both splits, in the order of their texts."""
    found = prepared(data, method, **more)
    return sorted([*found.train, *found.test], key=json.dumps)


# ---------------------------------------------------------------- forms

TEXTS = [{"text": "a dog"}, {"text": "the cat, “red”"}]
FORMS = {
    "lines.txt": "a dog\nthe cat, “red”\n",
    "windows.txt": "a dog\r\nthe cat, “red”",
    "table.csv": 'id,text\n1,a dog\n2,"the cat, “red”"\n',
    "semicolons.csv": "id;text\n1;a dog\n2;the cat, “red”\n",
    "tabs.tsv": "id\ttext\n1\ta dog\n2\tthe cat, “red”\n",
    "objects.jsonl": '{"text": "a dog"}\n{"text": "the cat, “red”", "id": 2}\n',
    "list.json": '[{"text": "a dog"},\n  {"text": "the cat, “red”"}\n]',
    "lines.json": '{"text": "a dog"}\n{"text": "the cat, “red”"}',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_and_encoding_says_the_same(tmp_path: Path, name: str, encoding: str) -> None:
    assert rows_of(write(tmp_path / name, FORMS[name].encode(encoding))) == TEXTS


def test_a_parquet_file_says_the_same(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TEXTS), tmp_path / "table.parquet")
    assert rows_of(tmp_path / "table.parquet") == TEXTS


def test_a_field_may_have_several_lines(tmp_path: Path) -> None:
    data = write(tmp_path / "a.csv", 'text\n"one\n\ntwo"\n"a ""b"""\n')
    assert rows_of(data) == [{"text": 'a "b"'}, {"text": "one\n\ntwo"}]


COMPLETIONS = [
    {"prompt": asked("What is green?"), "completion": answered("The tree.")},
    {"prompt": asked("What is red?"), "completion": answered("The car.")},
]


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("prompt", "completion"),
        ("Prompt", " Completion "),
        ("question", "answer"),
        ("instruction", "output"),
        ("query", "response"),
    ],
)
def test_columns_with_usual_names_are_known(tmp_path: Path, prompt: str, answer: str) -> None:
    rows = [{prompt: row["prompt"], answer: row["completion"]} for row in (ONE, TWO)]
    assert rows_of(write_jsonl(tmp_path / "a.jsonl", rows)) == COMPLETIONS


def test_columns_are_what_the_person_says(tmp_path: Path) -> None:
    rows = [{"text": row["completion"], "Frage": row["prompt"]} for row in (ONE, TWO)]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    assert rows_of(data, columns={"text": "completion", "Frage": "prompt"}) == COMPLETIONS


def test_an_instruction_is_followed_by_its_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Translate.", "input": "Hund", "output": "dog"},
        {"instruction": "Count.", "input": "", "output": "1"},
    ]
    assert rows_of(write_jsonl(tmp_path / "a.jsonl", rows)) == [
        {"prompt": asked("Count."), "completion": answered("1")},
        {"prompt": asked("Translate.\n\nHund"), "completion": answered("dog")},
    ]


def test_a_column_of_the_system_is_said_first(tmp_path: Path) -> None:
    rows = [{**ONE, "system": "Be brief."}, {**TWO, "system": ""}]
    first = {"role": "system", "content": "Be brief."}
    assert [row["prompt"] for row in rows_of(write_jsonl(tmp_path / "a.jsonl", rows))] == [
        [first, *asked("What is red?")],
        asked("What is green?"),
    ]


def test_chats_are_read_in_every_form(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hey"}]}, *answered("Ho")]
    rows = [{"messages": CHAT}, {"conversations": turns}, {"messages": parts}]
    assert rows_of(write_jsonl(tmp_path / "a.jsonl", rows)) == [
        {"messages": asked("Hey", "Ho")},
        {"messages": asked("Hi", "Ho")},
        {"messages": CHAT},
    ]


def test_pairs_are_read_with_a_prompt_or_as_whole_chats(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Which?", "chosen": "This.", "rejected": "That."},
        {"chosen": asked("Who?", "I."), "rejected": asked("Who?", "You.")},
        {"prompt": "When?", "chosen": asked("When?", "Now."), "rejected": asked("When?", "No.")},
    ]
    found = prepared(write_jsonl(tmp_path / "a.jsonl", rows), "dpo")
    assert found.kind == "preference"
    assert sorted([*found.train, *found.test], key=json.dumps) == [
        {"prompt": asked("When?"), "chosen": answered("Now."), "rejected": answered("No.")},
        {"prompt": asked("Which?"), "chosen": answered("This."), "rejected": answered("That.")},
        {"prompt": asked("Who?"), "chosen": answered("I."), "rejected": answered("You.")},
    ]


@pytest.mark.parametrize("good", [True, "true", "Yes", 1, "1"])
@pytest.mark.parametrize("bad", [False, "FALSE", "no", 0])
def test_labels_are_true_or_false(tmp_path: Path, good: Any, bad: Any) -> None:
    rows = [{**ONE, "label": good}, {**TWO, "label": bad}]
    found = rows_of(write_jsonl(tmp_path / "a.jsonl", rows), "kto")
    assert [row["label"] for row in found] == [False, True]


def test_bad_answers_are_not_taught_as_good_ones(tmp_path: Path) -> None:
    third = {"prompt": "What is blue?", "completion": "Grass.", "label": False}
    rows = [{**ONE, "label": True}, {**TWO, "label": True}, third]
    found = prepared(write_jsonl(tmp_path / "a.jsonl", rows))
    assert len(found.train) + len(found.test) == 2
    assert found.notices == (
        "1 sample with the label false is left out, because this method teaches only good answers.",
    )


def test_prompts_keep_the_columns_that_rewards_read(tmp_path: Path) -> None:
    rows = [{"question": f"{n} + {n}?", "answer": 2 * n, "level": n} for n in (1, 2)]
    assert rows_of(write_jsonl(tmp_path / "a.jsonl", rows), "grpo") == [
        {"answer": "2", "level": 1, "prompt": asked("1 + 1?")},
        {"answer": "4", "level": 2, "prompt": asked("2 + 2?")},
    ]


# ---------------------------------------------------------------- folders


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "three\n")
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "x.csv", "text\none\ntwo\n")
    write(tmp_path / "picture.png", b"\x89PNG")
    write(tmp_path / ".hidden.txt", b"\xff\xfe")
    assert rows_of(tmp_path) == [{"text": "one"}, {"text": "three"}, {"text": "two"}]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.txt", "test.txt"),
        ("train-00000-of-00001.txt", "validation.txt"),
        ("train/a.txt", "Dev/a.txt"),
        ("more.txt", "eval.txt"),
    ],
)
def test_a_folder_keeps_the_split_that_its_names_say(tmp_path: Path, train: str, test: str) -> None:
    for name, content in ((train, "one\ntwo\n"), (test, "three\n"), ("train.txt", "one\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        path = tmp_path / name
        write(path, (path.read_text("utf-8") if path.exists() else "") + content)
    found = prepared(tmp_path)
    assert sorted(row["text"] for row in found.train) == ["one", "two"]
    assert [row["text"] for row in found.test] == ["three"]


@pytest.mark.parametrize("names", [("trainers", "test"), ("train", "testimony")])
def test_a_name_that_only_begins_like_a_split_is_none(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for name in names:
        write(tmp_path / f"{name}.txt", f"{name} one\n{name} two\n{name} three\n")
    assert len(prepared(tmp_path, test_share=0.2).test) == 1


def test_what_is_in_training_and_test_is_only_tested(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "one\ntwo\nthree \n")
    write(tmp_path / "test.txt", "three\nfour\n")
    found = prepared(tmp_path)
    assert [row["text"] for row in found.train] == ["one", "two"]
    assert [row["text"] for row in found.test] == ["three", "four"]
    assert any("1 sample for training is in the test as well" in it for it in found.notices)


def test_a_split_without_anything_of_its_own_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "one\ntwo\n")
    write(tmp_path / "test.txt", "two\none\n")
    with pytest.raises(DataError, match="0 samples for training and 2 samples for the test"):
        prepared(tmp_path)


# ---------------------------------------------------------------- what is wrong

ROBOT = {"role": "robot", "content": "Beep."}
USER, ANSWER = CHAT
WRONG: dict[str, tuple[str, str | bytes, str, str]] = {
    "empty": ("a.txt", "", "lora", "a.txt is empty; it needs at least 2 samples."),
    "blank": ("a.txt", "\n \n", "lora", "a.txt is empty"),
    "empty table": ("a.csv", "text,id\n", "lora", "a.csv is empty"),
    "empty list": ("a.json", "[]", "lora", "a.json is empty"),
    "one line": ("a.txt", "one\n", "lora", "a.txt has 1 sample; at least 2 different ones"),
    "doubles": ("a.txt", "one\none\n", "lora", "a.txt has 1 sample; at least 2 different ones"),
    "binary": ("a.txt", b"one\n\x89PNG\0\0\x01", "lora", "a.txt: holds zero bytes, so it is a bin"),
    "late binary": ("a.txt", b"a\n" * 9000 + b"\0\n", "lora", "a.txt: holds zero bytes"),
    "latin-1": ("a.txt", b"one\ntwo gr\xfcn\n", "lora", "a.txt, line 2: is not encoded in UTF-8 "
                "(byte 0xFC at position 7); save the file as UTF-8."),
    "half utf-16": ("a.txt", b"\xff\xfea\0\n\0\x00\xd8", "lora", "a.txt, after line 1: begins as"),
    "wrong column": ("a.csv", "txet,id\none,1\n", "lora", "a.csv, line 2: lora needs a column mess"
                     "ages, columns prompt and completion or a column text, and there is txet and "
                     "id; if txet is its text, say --columns txet=text."),
    "no names": ("a.csv", "text,\none,1\n", "lora", "a.csv, line 1: names the columns, and needs"),
    "same names": ("a.csv", "text,text\na,b\n", "lora", "a.csv, line 1: names the columns"),
    "more fields": ("a.csv", "text,id\na,1\nb,c,2\n", "lora", "a.csv, line 3: has 3 fields, where"),
    "open quote": ("a.csv", 'text\na\n"b\nc\n', "lora", "a.csv, line 3: is no row of a table"),
    "no parquet": ("a.parquet", "text", "lora", "a.parquet: cannot be read as Parquet"),
    "no object": ("a.jsonl", '{"text": "a"}\n[1]\n', "lora", "a.jsonl, line 2: holds a list, wher"),
    "null": ("a.jsonl", "null\n", "lora", "a.jsonl, line 1: holds null, where an object"),
    "no json": ("a.jsonl", '{"text": "a"}\n{"text" "b"}\n', "lora", "a.jsonl, line 2: is no JSON ("
                "Expecting ':' delimiter at character 9); each line is one object {...}."),
    "deep json": ("a.jsonl", "[" * 99_999 + "\n", "lora", "a.jsonl, line 1: begins a list"),
    "deep object": ("a.jsonl", '{"a":' * 99_999, "lora", "a.jsonl, line 1: is no JSON (it is nest"),
    "huge number": ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "lora", "a.jsonl, line 1: is no JS"),
    "list of lists": ("a.json", '[{"text": "a"},\n\n[]]', "lora", "a.json, line 3: holds a list"),
    "open list": ("a.json", '[{"text": "a"},\n{"text": "b"}', "lora", "a.json, line 2: is no JSON"),
    "no comma": ("a.json", '[{"text": "a"}\n{"text": "b"}]', "lora", "a.json, line 2: is no JSON"),
    "more than a list": ("a.json", '[{"text": "a"}]\n[]', "lora", "a.json, line 1: something foll"),
    "no list": ("a.json", '"text"', "lora", "a.json: is no JSON; a list [...] of objects"),
    "half a character": ("a.jsonl", '{"text": "\\ud800"}', "lora", "a.jsonl, line 1: its text ho"),
    "no text": ("a.jsonl", '{"text": ["a"]}', "lora", "a.jsonl, line 1: its text is no text."),
    "unlike before": ("a.jsonl", '{"text": "a"}\n{"txt": "b"}', "lora", "a.jsonl, line 2: has no te"
                      "xt, as those before it have; there is txt (did you mean txt?)."),
    "no answer": ("a.jsonl", '{"prompt": "a", "completion": " "}', "lora", "a.jsonl, line 1: its co"
                  "mpletion is empty."),
    "label": ("a.jsonl", '{"prompt": "a", "completion": "b", "label": 2}', "kto", "a.jsonl, line 1:"
              " its label is '2'; it is true or false."),
    "same": ("a.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "b"}', "dpo", "a.jsonl, line 1:"
             " its chosen and rejected answers are the same"),
    "no prompt": ("a.jsonl", '{"chosen": "b", "rejected": "c"}', "dpo", "a.jsonl, line 1: has no"),
    "kind": ("a.jsonl", '{"prompt": "a", "completion": "b"}', "dpo", "a.jsonl, line 1: holds prompt"
             "s with completions, and dpo takes prompts with a chosen and a rejected answer; give i"
             "t columns prompt, chosen and rejected, or teach with lora, qlora or full."),
    "kind of chats": ("a.jsonl", json.dumps({"messages": CHAT}), "kto", "a.jsonl, line 1: holds cha"
                      "ts, and kto takes prompts with rated completions"),
    "ending": ("a.pdf", "%PDF", "lora", "a.pdf: a .pdf file is not read; give .txt, .csv"),
}  # fmt: skip
CHATS: dict[str, tuple[Any, str]] = {
    "no answer": ([USER], "is a chat without a turn of the assistant"),
    "unknown role": ([USER, ROBOT], "its message 2 has the role 'robot'; it is system, user or"),
    "two of the user": ([USER, USER, ANSWER], "its messages 1 and 2 are both of the user"),
    "two answers": ([USER, ANSWER, ANSWER], "its messages 2 and 3 are both of the assistant"),
    "assistant first": ([ANSWER, USER, ANSWER], "is a chat that the assistant begins"),
    "late system": (
        [USER, {"role": "system", "content": "Be."}, ANSWER],
        "its message 2 is of the",
    ),
    "empty answer": (
        [USER, {**ANSWER, "content": ""}],
        "its message 2, of the assistant, is empty",
    ),
    "no content": ([USER, {"role": "assistant"}], "its message 2 has no text as content."),
    "picture": ([{**USER, "content": [{"type": "image"}]}, ANSWER], "its message 1 has no text"),
    "no messages": ([], "its messages are no list of messages"),
    "no objects": (["Hi"], "its message 1 is no object with role and content."),
}


def check_refused(path: Path, sentence: str, method: str = "lora", **more: Any) -> None:
    before = sorted(path.parent.iterdir())
    with pytest.raises(DataError) as caught:
        prepared(path, method, **more)
    told = str(caught.value)
    assert told.startswith(sentence)
    assert told.endswith(".")
    assert "\n" not in told
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, case: str) -> None:
    name, content, method, sentence = WRONG[case]
    check_refused(write(tmp_path / name, content), sentence, method)


@pytest.mark.parametrize("case", CHATS)
def test_what_is_wrong_with_a_chat_is_said_with_its_line(tmp_path: Path, case: str) -> None:
    messages, sentence = CHATS[case]
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": CHAT}, {"messages": messages}])
    check_refused(path, f"a.jsonl, line 2: {sentence}")


def test_a_wrong_row_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "completion": str(n)} for n in range(200)]
    rows[150]["completion"] = ""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    check_refused(tmp_path / "a.parquet", "a.parquet, row 151: its completion is empty")


def test_a_field_of_several_lines_does_not_move_the_lines_after_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'prompt,completion\n"a\n\nb",c\n\nd,\n')
    check_refused(path, "a.csv, line 6: its completion is empty")


def test_a_file_in_a_folder_is_named_with_its_subfolder(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "a.jsonl", '{"text": "a"}\n3\n')
    with pytest.raises(DataError, match=r"more/a\.jsonl, line 2: holds a number"):
        prepared(tmp_path)


def test_a_column_that_is_not_there_is_named_with_the_likely_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "body,id\na,1\n")
    sentence = "a.csv, line 2: has no column bod; there is body and id (did you mean body?)."
    check_refused(path, sentence, columns={"bod": "text"})


def test_an_empty_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file that is read"):
        prepared(tmp_path)
    with pytest.raises(DataError, match="is no file that exists"):
        prepared(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json", "utf-16.txt"])
def test_a_line_of_200_megabytes_is_refused_before_it_fills_the_memory(
    tmp_path: Path, name: str
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.write(codecs.BOM_UTF16_LE if name == "utf-16.txt" else b"")
        file.write(b"" if name == "utf-16.txt" else b'{"text": "' if "json" in name else b"text\n")
        for _ in range(200):
            file.write(b"xy" * (1024**2 // 2))
    tracemalloc.start()
    try:
        line = 2 if name in {"a.txt", "a.csv"} else 1
        check_refused(tmp_path / name, f"{name}, line {line}: is longer than 8 MB")
        assert tracemalloc.get_traced_memory()[1] < 100 * 1024**2
    finally:
        tracemalloc.stop()


def test_a_quote_that_is_never_closed_does_not_take_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\none\n"' + "some words\n" * 1_000_000)
    check_refused(path, "a.csv, line 3: is no row of a table (field larger")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_must_not_be_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\ntwo\n")
    path.chmod(0)
    check_refused(path, "a.txt cannot be read")


@budget(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(FORMS)), content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("bytes") / name, content)
    try:
        found = prepared(path)
    except DataError as error:
        told = str(error)
    else:
        told = f"{name} has {len(found.train)} and {len(found.test)}"
    assert re.match(rf"{name}(, (after )?line \d+)?:? ", told)
    assert " 0 " not in told


@budget(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
            lambda text: text.strip()
        ),
        min_size=2,
        unique_by=str.strip,
    )
)
def test_what_a_table_writes_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(texts))
    found = prepared(path)
    read = [row["text"] for row in (*found.train, *found.test)]
    assert sorted(read) == sorted(texts)


# ---------------------------------------------------------------- what is told


def test_blank_lines_and_duplicates_are_told_and_left_out(tmp_path: Path) -> None:
    found = prepared(write(tmp_path / "a.txt", "one\n\ntwo\n one \n\none\nthree\n"))
    assert sorted(row["text"] for row in (*found.train, *found.test)) == ["one", "three", "two"]
    assert found.notices == (
        "2 blank lines are left out.",
        "2 of 5 samples are duplicates and are used once.",
    )


# ---------------------------------------------------------------- one's own chats


@dataclass
class Feedback:
    rated: list[dict[str, Any]] = field(default_factory=list)
    preferences: list[dict[str, Any]] = field(default_factory=list)


FEEDBACK = Feedback(
    rated=[
        {"prompt": asked("Who?"), "completion": answered("I."), "label": True},
        {"prompt": asked("When?"), "completion": answered("Never."), "label": False},
    ],
    preferences=[
        {"prompt": asked("How?"), "chosen": answered("So."), "rejected": answered("No.")},
        {"prompt": asked("Why?"), "chosen": answered("As."), "rejected": answered("Or.")},
    ],
)


@pytest.mark.parametrize(
    ("method", "kind", "count"),
    [
        ("kto", "rated", 2),
        ("dpo", "preference", 2),
        ("reward", "preference", 2),
        ("lora", "completion", 3),
    ],
)
def test_ones_own_chats_fit_each_method(method: str, kind: str, count: int) -> None:
    found = prepare_data(settings("chats", method), FEEDBACK)
    assert (found.kind, len(found.train) + len(found.test)) == (kind, count)


def test_answers_that_were_rated_bad_or_replaced_are_not_taught_as_good() -> None:
    found = prepare_data(settings("chats"), FEEDBACK)
    answers = {row["completion"][0]["content"] for row in (*found.train, *found.test)}
    assert answers == {"I.", "So.", "As."}


def test_chats_without_feedback_say_how_to_give_some() -> None:
    with pytest.raises(DataError, match="thumb up or down"):
        prepare_data(settings("chats", "kto"), Feedback())
    with pytest.raises(DataError, match="start the job from the program"):
        prepare_data(settings("chats", "kto"))


def test_a_wrong_row_of_ones_own_chats_is_named() -> None:
    rows = Feedback(preferences=[FEEDBACK.preferences[0], {**FEEDBACK.preferences[1]}])
    rows.preferences[1]["rejected"] = rows.preferences[1]["chosen"]
    with pytest.raises(DataError, match=r"^your chats, answer 2: its chosen and rejected"):
        prepare_data(settings("chats", "dpo"), rows)


# ---------------------------------------------------------------- the files of a job


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    found = prepared(write(tmp_path / "a.txt", "one\ntwo — “three” 日本\u2028four\nfive\n"))
    folder = tmp_path / "job" / "data"
    write_data(found, folder)
    assert read_rows(folder / "train.jsonl") == found.train
    assert read_rows(folder / "test.jsonl") == found.test
    assert sorted(path.name for path in folder.iterdir()) == ["test.jsonl", "train.jsonl"]
    if os.name == "posix":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_digest_is_that_of_the_data_and_not_of_its_form(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", "prompt,completion\na,b\nc,d\n")
    turned = write(tmp_path / "b.csv", "completion,prompt\nb,a\nd,c\n")
    other = write(tmp_path / "c.csv", "prompt,completion\na,b\nc,e\n")
    digests = [prepared(path).source_digest for path in (table, turned, other)]
    assert digests[0] == digests[1] != digests[2]
