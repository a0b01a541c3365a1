"""A model that was quantized once is read as it was saved: the same model, fewer bytes. Whatever
becomes of what was saved, the model is loaded."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import torch
import transformers
from command_line import run
from conftest import ROOT
from quantized_store import LLAMA, ROOM, Start, keep, published, record_of, store_of
from tiny_engines import ENGINES, modules_of
from tiny_models import CHATML, add_model, causal_config, tokenizer
from torch import nn
from typer.testing import Result

from multimodal.backends.base import Backend, load
from multimodal.backends.load_context import LoadContext, load_context
from multimodal.backends.quantize_once import quantize_once
from multimodal.build import Program, build
from multimodal.catalog.cards import ModelCard
from multimodal.chats.service import Chats
from multimodal.events import Progress
from multimodal.settings import read_settings
from multimodal.weights.quantized import QuantizationSettings, QuantizedCheckpoints

QUANTIZED = [
    (name, kind)
    for name, engine in ENGINES.items()
    if name.partition(" ")[0] in {"causal_lm", "image_text", "minigpt4", "wav2vec2", "seamless"}
    for kind in ("int8", "nf4-double", "nf4", "fp4")
    if kind in engine.kinds or name == LLAMA
]


def same_state(one: Start, other: Start) -> bool:
    pairs = zip(one.state, other.state, strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def left(store: Path) -> list[str]:
    """What of saved models is in a folder of weights, locks aside."""
    return sorted(path.name for path in store.iterdir() if path.suffix != ".lock")


# ------------------------------------------------------------ the same model


@pytest.mark.parametrize(("name", "kind"), QUANTIZED)
def test_the_second_start_is_the_same_model(
    name: str, kind: str, tmp_path: Path, speech: Any
) -> None:
    """Every weight and scale bit for bit, before anything ran; then the same answer. It is saved in
    several files, as one of full size is: a layer's scales may lie in another one."""
    card, files = published(tmp_path / "published", kind, name), tmp_path / "published"
    before = contents(files)
    first = Start(card, files, tmp_path / "store", file_bytes=20_000)
    assert first.has_saved
    assert len(list(tmp_path.glob("store/*/*/*.safetensors"))) > 3
    second = Start(card, files, tmp_path / "store")
    assert second.has_read_saved
    assert same_state(first, second)
    assert second.true_bytes == first.true_bytes
    asks = ENGINES[name].asks
    assert second.says(asks, speech) == first.says(asks, speech)
    assert contents(files) == before, "nothing is written to what was fetched"
    names = {p.suffix for p in (tmp_path / "store" / "tiny.quantized").rglob("*") if p.is_file()}
    assert names == {".json", ".safetensors"}


def test_the_layers_that_were_saved_are_quantized(tmp_path: Path) -> None:
    card = published(tmp_path / "published")
    Start(card, tmp_path / "published", tmp_path / "store")
    second = Start(card, tmp_path / "published", tmp_path / "store")
    (model,) = modules_of(second.backend)
    layers = [type(m).__name__ for m in model.modules() if isinstance(m, nn.Linear)]
    assert layers.count("Linear4bit") == 14
    assert second.true_bytes < sum(p.numel() for p in model.parameters()) * 2


def test_what_is_not_quantized_here_is_not_saved(tmp_path: Path) -> None:
    """16 bits; a checkpoint that its authors quantized; a family of another library."""
    card = published(tmp_path / "published")
    plain = card.model_copy(update={"quantization": ("bf16",)})
    ready = Start(card, tmp_path / "published", tmp_path / "one")
    (saved,) = ready.checkpoints.all()
    tokenizer(CHATML).save_pretrained(saved.folder)
    drawn = ENGINES["diffusion sd"].make(tmp_path / "drawing", "nf4-double")
    cases = (
        (plain, tmp_path / "published"),
        (card, saved.folder),
        (drawn, tmp_path / "drawing"),
    )
    for other, files in cases:
        start = Start(other, files, tmp_path / "two")
        assert start.told == []
        assert start.checkpoints.all() == []


def test_a_library_that_only_loads_saves_nothing(tmp_path: Path) -> None:
    card = published(tmp_path / "published")
    before = sorted(tmp_path.rglob("*"))
    load(card, tmp_path / "published", "cpu").close()
    assert sorted(tmp_path.rglob("*")) == before


def test_switched_off_nothing_is_saved_or_read(tmp_path: Path) -> None:
    card, files = published(tmp_path / "published"), tmp_path / "published"
    assert Start(card, files, tmp_path / "store", most_bytes=0).told == []
    assert not (tmp_path / "store").exists()
    Start(card, files, tmp_path / "store")
    assert Start(card, files, tmp_path / "store", most_bytes=0).told == []


def test_the_seconds_of_both_are_told_as_they_were_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card, files = published(tmp_path / "published"), tmp_path / "published"
    (saved,) = Start(card, files, tmp_path / "store").checkpoints.all()
    quantized = f"{saved.record.published_s:.1f} s"
    assert saved.record.published_bytes == (files / "model.safetensors").stat().st_size
    with caplog.at_level(logging.INFO, "multimodal"):
        second = Start(card, files, tmp_path / "store")
    assert second.told[0].endswith(f"by an earlier start ({quantized} when it was quantized)")
    (read,) = second.checkpoints.all()
    assert read.record.saved_s is not None
    assert read.seconds == f"{read.record.saved_s:.1f} s instead of {quantized}"
    assert f"as it was saved: {read.seconds}" in caplog.text
    assert read.seconds in Start(card, files, tmp_path / "store").told[0]


# ------------------------------------------------------------ what makes a new one


def other_kind(card: ModelCard, files: Path) -> ModelCard:
    return card.model_copy(update={"quantization": ("nf4",)})


def other_weights(card: ModelCard, files: Path) -> ModelCard:
    """Of the same size and, as from an archive, the same time."""
    path = files / "model.safetensors"
    state, data = path.stat(), bytearray(path.read_bytes())
    data[-40_000:] = data[-20_000:] + data[-40_000:-20_000]
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    return card


def other_configuration(card: ModelCard, files: Path) -> ModelCard:
    text = (files / "config.json").read_text("utf-8")
    (files / "config.json").write_text(
        text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05')
    )
    assert (files / "config.json").read_text("utf-8") != text
    return card


@pytest.mark.parametrize("change", [other_kind, other_weights, other_configuration])
def test_what_was_saved_is_replaced_when_anything_changes(
    change: Callable[[ModelCard, Path], ModelCard], tmp_path: Path
) -> None:
    files, store = tmp_path / "published", tmp_path / "store"
    card = published(files)
    (old,) = Start(card, files, store).checkpoints.all()
    card = change(card, files)
    second = Start(card, files, store)
    assert second.has_saved
    (new,) = second.checkpoints.all()
    assert new.folder != old.folder
    assert left(store) == ["tiny.quantized"]
    assert left(store / "tiny.quantized") == [new.folder.name]
    third = Start(card, files, store)
    assert third.has_read_saved
    assert same_state(second, third)


def test_other_libraries_make_a_new_one(tmp_path: Path) -> None:
    """Their versions are in its name and its record."""
    card = published(tmp_path / "published")
    (saved,) = Start(card, tmp_path / "published", tmp_path / "store").checkpoints.all()
    settings = saved.record.settings
    libraries = {**settings.libraries, "bitsandbytes": "0.1"}
    assert settings.libraries["transformers"] == transformers.__version__
    assert transformers.__version__ in saved.folder.name
    changed = settings.model_copy(update={"libraries": libraries})
    store = store_of(tmp_path / "store")
    assert store.find("tiny", settings)
    assert store.find("tiny", changed) is None
    assert changed.folder_name != settings.folder_name


# ------------------------------------------------------------ what is damaged


def spoil(folder: Path, change: Callable[[bytearray], None], is_seen: bool) -> None:
    """Change the file of weights; unless `is_seen`, its time stays."""
    path = folder / "model.safetensors"
    state, data = path.stat(), bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    if not is_seen:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def cut(folder: Path) -> None:
    """A weight is shorter, and no time tells it."""

    def shorten(data: bytearray) -> None:
        del data[-1000:]

    spoil(folder, shorten, is_seen=False)


def flip(folder: Path) -> None:
    """One bit of one weight, which nothing but a checksum tells."""

    def change(data: bytearray) -> None:
        header = int.from_bytes(data[:8], "little")
        start, _end = json.loads(data[8 : 8 + header])["model.norm.weight"]["data_offsets"]
        data[8 + header + start] ^= 1

    spoil(folder, change, is_seen=True)


def flip_unseen(folder: Path) -> None:
    """In the header, and neither size nor time tells it."""

    def change(data: bytearray) -> None:
        data[9:40] = b"\xff" * 31

    spoil(folder, change, is_seen=False)


def lose(folder: Path) -> None:
    (folder / "config.json").unlink()


def scribble(folder: Path) -> None:
    (folder / "quantized.json").write_text("{")


@pytest.mark.parametrize("harm", [cut, flip, flip_unseen, lose, scribble])
def test_what_is_damaged_is_told_removed_and_saved_again(
    harm: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files, store = tmp_path / "published", tmp_path / "store"
    card = published(files)
    first = Start(card, files, store)
    (saved,) = first.checkpoints.all()
    harm(saved.folder)
    second = Start(card, files, store)
    assert second.has_saved
    assert same_state(first, second)
    assert "published weights" in caplog.text
    assert str(saved.folder) in caplog.text
    if harm in {cut, flip}:
        assert "is removed" in caplog.text, "it is found before it is loaded"
    third = Start(card, files, store)
    assert third.has_read_saved
    assert same_state(first, third)


def test_files_with_another_time_are_read_once_and_used(tmp_path: Path) -> None:
    """As in a data folder that was copied."""
    files, store = tmp_path / "published", tmp_path / "store"
    card = published(files)
    (saved,) = Start(card, files, store).checkpoints.all()
    for path in saved.folder.glob("*.safetensors"):
        os.utime(path, (1, 1))
    second = Start(card, files, store)
    assert second.has_read_saved
    (renewed,) = second.checkpoints.all()
    assert renewed.record.files["model.safetensors"].modified_ns == 10**9


def test_what_the_library_cannot_read_back_is_not_saved_over_and_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are whole, and make another model than the one that was saved."""
    files, store = tmp_path / "published", tmp_path / "store"
    card = published(files)
    first = Start(card, files, store)
    (saved,) = first.checkpoints.all()
    text = (saved.folder / "quantized.json").read_text("utf-8")
    record = text.replace(f'"true_bytes": {first.true_bytes}', '"true_bytes": 7')
    assert record != text
    (saved.folder / "quantized.json").write_text(record)
    second = Start(card, files, store)
    assert same_state(first, second)
    assert "multimodal quantized remove tiny" in caplog.text
    third = Start(card, files, store)
    assert "as published" in third.told[0]
    (kept,) = third.checkpoints.all()
    assert not kept.is_readable
    assert kept.size_bytes == 0
    assert third.checkpoints.remove("tiny") < 5000
    assert Start(card, files, store).has_saved


def test_a_full_device_is_no_damage(tmp_path: Path) -> None:
    files, store = tmp_path / "published", tmp_path / "store"
    card = published(files)
    first = Start(card, files, store)
    (saved,) = first.checkpoints.all()
    settings = saved.record.settings
    context = LoadContext(first.checkpoints, first.told.append)

    def full(_folder: Path) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def unasked() -> Any:
        raise AssertionError("the published weights do not fit either")

    with pytest.raises(torch.OutOfMemoryError):
        quantize_once(context, card, settings, 1, unasked, full)
    assert Start(card, files, store).has_read_saved


def test_published_weights_that_fail_are_told_as_ever_and_blame_nothing(tmp_path: Path) -> None:
    files, store = tmp_path / "published", tmp_path / "store"
    card = published(files)
    first = Start(card, files, store)
    (saved,) = first.checkpoints.all()

    def fails(*_folder: Path) -> Any:
        raise RuntimeError("no kernel")

    context = LoadContext(first.checkpoints, first.told.append)
    with pytest.raises(RuntimeError, match="no kernel"):
        quantize_once(context, card, saved.record.settings, 1, fails, fails)
    assert Start(card, files, store).has_read_saved


# ------------------------------------------------------------ disks and programs that end


CHILD = """
import sys, threading
from pathlib import Path
sys.path[:0] = {folders!r}
from quantized_store import Start, published
from multimodal.catalog.cards import ModelCard
card = ModelCard.model_validate_json(Path({card!r}).read_text())
{before}
start = Start(card, Path({files!r}), Path({store!r}))
print("ANSWER", start.says())
print("TOLD", start.told)
"""


def child(tmp_path: Path, card: ModelCard, before: str = "") -> subprocess.Popen[str]:
    """A program of its own that loads the model and answers."""
    (tmp_path / "card.json").write_text(card.model_dump_json(), "utf-8")
    code = CHILD.format(
        folders=[str(ROOT / "tests"), str(ROOT / "tests/fixtures")],
        card=str(tmp_path / "card.json"),
        files=str(tmp_path / "published"),
        store=str(tmp_path / "store"),
        before=before,
    )
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=pipe, stderr=pipe)


def line_of(told: str, word: str) -> str:
    (line,) = [line for line in told.splitlines() if line.startswith(word)]
    return line


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_disk_that_gets_full_while_saving_loses_the_saving_alone(tmp_path: Path) -> None:
    """No file may grow beyond 50 kB, as on a disk that is full by then."""
    card = published(tmp_path / "published")
    expected = Start(card, tmp_path / "published", tmp_path / "other").says()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    with child(tmp_path, card, limit) as program:
        told, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    assert line_of(told, "ANSWER") == f"ANSWER {expected}"
    assert "Saving " in line_of(told, "TOLD")
    assert "Tiny is not saved as it was quantized: " in errors
    assert left(tmp_path / "store") == []


def test_a_disk_that_would_be_left_too_full_is_not_written_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card, files = published(tmp_path / "published"), tmp_path / "published"
    start = Start(card, files, tmp_path / "store", free_bytes=lambda path: 5_000_100_000)
    assert start.says()
    assert left(tmp_path / "store") == []
    assert "has 5.0 GB left, of which 5.0 GB stay free" in caplog.text


KILLED = """
import os, signal
from quantized_store import QuantizedCheckpoints
class Killed(QuantizedCheckpoints):
    def save(self, model, record, write):
        def half(folder):
            write(folder)
            path = folder / "model.safetensors"
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(model, record, half)
import quantized_store
quantized_store.QuantizedCheckpoints = Killed
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_program_that_is_killed_while_saving_leaves_one_that_starts(tmp_path: Path) -> None:
    card, files, store = (
        published(tmp_path / "published"),
        tmp_path / "published",
        tmp_path / "store",
    )
    with child(tmp_path, card, KILLED) as program:
        program.communicate(timeout=120)
    assert program.returncode == -9
    (half,) = left(store / "tiny.quantized")
    assert half.endswith(".part"), "it died in the middle"
    assert store_of(store).all() == []
    next_one = Start(card, files, store)
    assert next_one.has_saved
    (saved,) = left(store / "tiny.quantized")
    assert saved != half
    assert Start(card, files, store).has_read_saved


def test_what_a_killed_program_left_is_removed_even_if_nothing_is_saved(tmp_path: Path) -> None:
    card, files, store = (
        published(tmp_path / "published"),
        tmp_path / "published",
        tmp_path / "store",
    )
    (saved,) = Start(card, files, store).checkpoints.all()
    (saved.folder.parent / "nf4-1234.part").mkdir()
    (saved.folder.parent / "nf4-1234.part" / "model.safetensors").write_bytes(b"half")
    assert Start(card, files, store).has_read_saved
    assert left(saved.folder.parent) == [saved.folder.name]


def test_programs_that_start_at_once_do_not_harm_one_another(tmp_path: Path) -> None:
    card, files, store = (
        published(tmp_path / "published"),
        tmp_path / "published",
        tmp_path / "store",
    )
    expected = Start(card, files, tmp_path / "other").says()
    meet = f"""
import time
Path({str(tmp_path)!r}, "here-" + str(__import__("os").getpid())).touch()
while len(list(Path({str(tmp_path)!r}).glob("here-*"))) < 2: time.sleep(0.01)
"""
    with child(tmp_path, card, meet) as one, child(tmp_path, card, meet) as two:
        for program in (one, two):
            told, errors = program.communicate(timeout=200)
            assert line_of(told, "ANSWER") == f"ANSWER {expected}", errors
            assert "cannot be read" not in errors
    assert len(left(store / "tiny.quantized")) == 1
    assert Start(card, files, store).has_read_saved


def test_while_another_program_saves_a_model_it_is_loaded_and_not_saved(tmp_path: Path) -> None:
    card, files, store = (
        published(tmp_path / "published"),
        tmp_path / "published",
        tmp_path / "store",
    )
    inside, go = threading.Event(), threading.Event()
    other = store_of(store)
    record = Start(card, files, tmp_path / "other").checkpoints.all()[0].record

    def slowly(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half of it")
        inside.set()
        go.wait(60)
        raise OSError("no space left")

    saving = threading.Thread(target=other.save, args=("tiny", record, slowly))
    saving.start()
    assert inside.wait(60)
    try:
        start = Start(card, files, store)
        assert start.checkpoints.all() == []
        (half,) = left(store / "tiny.quantized")
        assert (store / "tiny.quantized" / half / "model.safetensors").exists(), "it is not swept"
        assert start.says()
    finally:
        go.set()
        saving.join()
    assert left(store) == []


# ------------------------------------------------------------ bounded, and removed


def names(store: QuantizedCheckpoints) -> list[str]:
    return [checkpoint.model for checkpoint in store.all()]


def test_the_longest_unused_one_makes_room(tmp_path: Path) -> None:
    store = store_of(tmp_path, 300)
    for age, name in enumerate(("oldest", "middle", "youngest")):
        keep(store, name, 100)
        (found,) = [checkpoint for checkpoint in store.all() if checkpoint.model == name]
        os.utime(found.folder / "quantized.json", (1000 + age, 1000 + age))
    assert names(store) == ["oldest", "middle", "youngest"]
    assert store.find("oldest", record_of("oldest", 100).settings), "now it is the last one used"
    keep(store, "new", 150)
    assert names(store) == ["oldest", "new"]
    assert left(tmp_path) == ["new.quantized", "oldest.quantized"]


def test_one_beyond_the_bound_is_told_and_removes_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path, 300)
    keep(store, "small", 100)
    keep(store, "large", 301)
    assert names(store) == ["small"]
    assert "Large is not saved as it was quantized: it takes" in caplog.text
    assert "--quantized-checkpoints allows" in caplog.text


def command(*arguments: str, data: Path) -> Result:
    return run("quantized", *arguments, "--data", str(data))


def test_the_command_lists_and_removes_them(tmp_path: Path) -> None:
    store = store_of(tmp_path / "weights")
    keep(store, "mistral", 4_100_000)
    keep(store, "phi", 100)
    shown = command("list", data=tmp_path)
    assert shown.exit_code == 0, shown.stderr
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("mistral")]
    for told in ("nf4", "0.00 GB", "10.4 s when it was quantized", "bitsandbytes 1"):
        assert told in line
    rows = json.loads(command("list", "--json", data=tmp_path).stdout)
    assert {row["model"]: row["size_bytes"] for row in rows} == {"mistral": 4_100_000, "phi": 100}
    removed = command("remove", "mistral", data=tmp_path)
    assert removed.exit_code == 0, removed.stderr
    assert removed.stdout.startswith("mistral: ")
    assert names(store) == ["phi"]
    assert left(tmp_path / "weights") == ["phi.quantized"]


@pytest.mark.parametrize("name", ["mistral", "", "../phi", "phi.quantized", "."])
def test_the_command_removes_nothing_else(name: str, tmp_path: Path) -> None:
    store = store_of(tmp_path / "weights")
    keep(store, "phi", 100)
    (tmp_path / "phi.quantized").mkdir()
    told = command("remove", name, data=tmp_path)
    assert told.exit_code == 1
    assert told.stderr == (
        f"multimodal: No quantized checkpoint of {name!r} is saved here; phi is.\n"
    )
    assert names(store) == ["phi"]
    assert (tmp_path / "phi.quantized").is_dir()


# ------------------------------------------------------------ the whole program


PROFILE = {
    "name": "tiny",
    "title": "Tiny",
    "device": "cpu",
    "budget": "500MB",
    "models": {"text-generation": ["tiny-mistral"]},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a mistral of 50 MB in 16 bits, and its profile."""
    data = tmp_path_factory.mktemp("data")
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 7}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "torch_dtype": "bfloat16"}
    config = causal_config("mistral", **wide, **heads)
    torch.manual_seed(1)
    made = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForCausalLM.from_config(made).to(torch.bfloat16)
    model.save_pretrained(data / "mistral", max_shard_size="20MB")
    tokenizer(CHATML).save_pretrained(data / "mistral")
    add_model(
        data / "models",
        "tiny-mistral",
        "text-generation",
        data / "mistral",
        family="causal_lm",
        model="AutoModelForCausalLM",
        config={name: value for name, value in config.items() if name != "torch_dtype"},
        quantization=["nf4-double"],
        context_tokens=256,
        concurrency=1,
    )
    (data / "models" / "profiles").mkdir()
    (data / "models" / "profiles" / "tiny.toml").write_text(tomlkit.dumps(PROFILE), "utf-8")
    return data


def reply(program: Program) -> str:
    chats = Chats(program.store, program.media, program.assistant)
    talk = program.store.create("ann")
    chats.open("ann", talk).say("What colour is the car?", [])
    *_, last = chats.open("ann", talk).answer(threading.Event())
    assert last.reply.outcome is not None
    assert last.reply.outcome.error is None, last.reply.outcome.error
    return last.reply.text


def bytes_read() -> int:
    """That this process had fetched from a disk."""
    found = dict(line.split(": ") for line in Path("/proc/self/io").read_text("ascii").splitlines())
    return int(found["read_bytes"])


def forget(*folders: Path) -> None:
    """Let the system keep none of those files in memory."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def started(data: Path) -> tuple[str, int, list[str]]:
    """What one start of the program answers, the bytes it reads for that, and what it tells."""
    forget(data / "mistral", data / "weights")
    program, told = build(read_settings(data=data, profile="tiny", device="cpu")), list[str]()
    before = bytes_read()
    card = program.card("tiny-mistral")
    with program.memory.lease(card, threading.Event()) as lease:
        told += [step.text for step in lease.wait() if isinstance(step, Progress)]
    size, words = bytes_read() - before, reply(program)
    program.close()
    return words, size, told


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts what a process reads")
def test_the_second_start_reads_the_saved_model_and_not_the_published_one(data: Path) -> None:
    """By the kernel's own count of bytes that came from the disk."""
    weights = sum(path.stat().st_size for path in (data / "mistral").glob("*.safetensors"))
    words, first, told = started(data)
    (saved,) = QuantizedCheckpoints(data / "weights", ROOM).all()
    if first < weights:
        pytest.skip("this file system lies in memory")
    assert saved.size_bytes < weights / 3
    again, second, told_again = started(data)
    assert words == again
    assert saved.size_bytes <= second < weights / 2
    assert any("as published, quantized to 4 bits" in line for line in told)
    assert any("saved in 4 bits by an earlier start" in line for line in told_again)
    assert not any("as published" in line for line in told_again)


def test_a_stand_in_on_another_device_saves_nothing(tmp_path: Path) -> None:
    card, files = published(tmp_path / "published"), tmp_path / "published"
    store, told = store_of(tmp_path / "store"), list[str]()
    with load_context(LoadContext(store, told.append, saves=False)):
        backend: Backend = load(card, files, "cpu")
    backend.close()
    store.wait()
    assert store.all() == []
    assert "as published" in told[0]


def test_settings_of_one_model_have_one_name() -> None:
    settings = QuantizationSettings(
        kind="nf4", compute="bfloat16", model="M", source="s", libraries={"bitsandbytes": "1"}
    )
    assert settings.folder_name.startswith("nf4_bfloat16_bitsandbytes-1_")
    assert settings.model_copy(update={"source": "t"}).folder_name != settings.folder_name
