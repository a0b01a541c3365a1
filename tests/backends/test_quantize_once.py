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
import torch
import transformers
from command_line import run
from conftest import ROOT
from own_models import write_profile
from quantized_store import LLAMA, ROOM, Published, Start, keep, record_of, store_of
from tiny_engines import ENGINES, modules_of
from tiny_models import CHATML, add_model, causal_config, tokenizer
from torch import nn
from typer.testing import Result

from multimodal.backends.base import load
from multimodal.backends.load_context import LoadContext, use_load_context
from multimodal.backends.quantize_once import quantize_once
from multimodal.build import Program, build
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


@pytest.fixture
def model(tmp_path: Path) -> Published:
    return Published(tmp_path)


@pytest.mark.parametrize(("name", "kind"), QUANTIZED)
def test_the_second_start_is_the_same_model(
    name: str, kind: str, tmp_path: Path, speech: Any
) -> None:
    """Every weight and scale bit for bit, before anything ran; then the same answer. It is saved in
    several files, as one of full size is: a layer's scales may lie in another one."""
    model = Published(tmp_path, kind, name)
    before = contents(model.files)
    first = model.start(file_bytes=20_000)
    assert first.has_saved
    assert len(list(model.store.glob("*/*/*.safetensors"))) > 3
    second = model.start()
    assert second.has_read_saved
    assert same_state(first, second)
    assert second.true_bytes == first.true_bytes
    asks = ENGINES[name].asks
    assert second.says(asks, speech) == first.says(asks, speech)
    assert contents(model.files) == before, "nothing is written to what was fetched"
    names = {p.suffix for p in (model.store / "tiny.quantized").rglob("*") if p.is_file()}
    assert names == {".json", ".safetensors"}


def test_the_layers_that_were_saved_are_quantized(model: Published) -> None:
    model.start()
    second = model.start()
    (module,) = modules_of(second.backend)
    layers = [type(m).__name__ for m in module.modules() if isinstance(m, nn.Linear)]
    assert layers.count("Linear4bit") == 14
    assert second.true_bytes < sum(p.numel() for p in module.parameters()) * 2


def test_what_is_not_quantized_here_is_not_saved(model: Published, tmp_path: Path) -> None:
    """16 bits; a checkpoint that its authors quantized; a family of another library."""
    plain = model.card.model_copy(update={"quantization": ("bf16",)})
    saved = model.save()
    tokenizer(CHATML).save_pretrained(saved.folder)
    drawn = ENGINES["diffusion sd"].make(tmp_path / "drawing", "nf4-double")
    cases = (plain, model.files), (model.card, saved.folder), (drawn, tmp_path / "drawing")
    for other, files in cases:
        start = Start(other, files, tmp_path / "two")
        assert start.told == []
        assert start.checkpoints.all() == []


def test_a_library_that_only_loads_saves_nothing(model: Published, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    load(model.card, model.files, "cpu").close()
    assert sorted(tmp_path.rglob("*")) == before


def test_switched_off_nothing_is_saved_or_read(model: Published) -> None:
    assert model.start(most_bytes=0).told == []
    assert not model.store.exists()
    model.start()
    assert model.start(most_bytes=0).told == []


def test_the_seconds_of_both_are_told_as_they_were_measured(
    model: Published, caplog: pytest.LogCaptureFixture
) -> None:
    saved = model.save()
    quantized = f"{saved.record.published_s:.1f} s"
    assert saved.record.published_bytes == (model.files / "model.safetensors").stat().st_size
    with caplog.at_level(logging.INFO, "multimodal"):
        second = model.start()
    assert second.told[0].endswith(f"by an earlier start ({quantized} when it was quantized)")
    (read,) = second.checkpoints.all()
    assert read.record.saved_s is not None
    assert read.seconds == f"{read.record.saved_s:.1f} s instead of {quantized}"
    assert f"as it was saved: {read.seconds}" in caplog.text
    assert read.seconds in model.start().told[0]


# ------------------------------------------------------------ what makes a new one


def other_kind(model: Published) -> None:
    model.card = model.card.model_copy(update={"quantization": ("nf4",)})


def other_weights(model: Published) -> None:
    """Of the same size and, as from an archive, the same time."""

    def swap(data: bytearray) -> None:
        data[-40_000:] = data[-20_000:] + data[-40_000:-20_000]

    spoil(model.files, swap, is_seen=False)


def other_configuration(model: Published) -> None:
    path = model.files / "config.json"
    text = path.read_text("utf-8")
    path.write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'), "utf-8")
    assert path.read_text("utf-8") != text


def spoil(folder: Path, change: Callable[[bytearray], None], is_seen: bool) -> None:
    """Change the file of weights; unless `is_seen`, its time stays."""
    path = folder / "model.safetensors"
    state, data = path.stat(), bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    if not is_seen:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("change", [other_kind, other_weights, other_configuration])
def test_what_was_saved_is_replaced_when_anything_changes(
    change: Callable[[Published], None], model: Published
) -> None:
    old, store = model.save(), model.store
    change(model)
    second = model.start()
    assert second.has_saved
    (new,) = second.checkpoints.all()
    assert new.folder != old.folder
    assert left(store) == ["tiny.quantized"]
    assert left(store / "tiny.quantized") == [new.folder.name]
    third = model.start()
    assert third.has_read_saved
    assert same_state(second, third)


def test_other_libraries_make_a_new_one(model: Published) -> None:
    """Their versions are in its name and its record."""
    saved = model.save()
    settings = saved.record.settings
    libraries = {**settings.libraries, "bitsandbytes": "0.1"}
    assert settings.libraries["transformers"] == transformers.__version__
    assert transformers.__version__ in saved.folder.name
    changed = settings.model_copy(update={"libraries": libraries})
    store = store_of(model.store)
    assert store.find("tiny", settings)
    assert store.find("tiny", changed) is None
    assert changed.folder_name != settings.folder_name


# ------------------------------------------------------------ what is damaged


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
    harm: Callable[[Path], None], model: Published, caplog: pytest.LogCaptureFixture
) -> None:
    first = model.start()
    (saved,) = first.checkpoints.all()
    harm(saved.folder)
    second = model.start()
    assert second.has_saved
    assert same_state(first, second)
    assert "published weights" in caplog.text
    assert str(saved.folder) in caplog.text
    if harm in {cut, flip}:
        assert "is removed" in caplog.text, "it is found before it is loaded"
    third = model.start()
    assert third.has_read_saved
    assert same_state(first, third)


def test_files_with_another_time_are_read_once_and_used(model: Published) -> None:
    """As in a data folder that was copied."""
    for path in model.save().folder.glob("*.safetensors"):
        os.utime(path, (1, 1))
    second = model.start()
    assert second.has_read_saved
    (renewed,) = second.checkpoints.all()
    assert renewed.record.files["model.safetensors"].modified_ns == 10**9


def test_what_the_library_cannot_read_back_is_not_saved_over_and_over(
    model: Published, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are whole, and make another model than the one that was saved."""
    first = model.start()
    (saved,) = first.checkpoints.all()
    text = (saved.folder / "quantized.json").read_text("utf-8")
    record = text.replace(f'"true_bytes": {first.true_bytes}', '"true_bytes": 7')
    assert record != text
    (saved.folder / "quantized.json").write_text(record)
    second = model.start()
    assert same_state(first, second)
    assert "multimodal quantized remove tiny" in caplog.text
    third = model.start()
    assert "as published" in third.told[0]
    (kept,) = third.checkpoints.all()
    assert not kept.is_readable
    assert kept.size_bytes == 0
    assert third.checkpoints.remove("tiny") < 5000
    assert model.start().has_saved


def fails(*_folder: Path) -> Any:
    raise RuntimeError("no kernel")


def full(_folder: Path) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def unasked() -> Any:
    raise AssertionError("the published weights do not fit either")


@pytest.mark.parametrize(
    ("read_published", "read_saved", "error"),
    [(unasked, full, "CUDA out of memory"), (fails, fails, "no kernel")],
    ids=["a full device", "published weights that fail, too"],
)
def test_what_is_no_damage_is_told_as_ever_and_blames_nothing(
    model: Published, read_published: Any, read_saved: Any, error: str
) -> None:
    first = model.start()
    (saved,) = first.checkpoints.all()
    context = LoadContext(first.checkpoints, first.told.append)
    with pytest.raises(RuntimeError, match=error):
        quantize_once(context, model.card, saved.record.settings, 1, read_published, read_saved)
    assert model.start().has_read_saved


# ------------------------------------------------------------ disks and programs that end


CHILD = """
import sys, threading
from pathlib import Path
sys.path[:0] = {folders!r}
from quantized_store import Start
from multimodal.catalog.cards import ModelCard
card = ModelCard.model_validate_json({card!r})
{before}
start = Start(card, Path({files!r}), Path({store!r}))
print("ANSWER", start.says())
print("TOLD", start.told)
"""


def child(model: Published, before: str = "") -> subprocess.Popen[str]:
    """A program of its own that loads the model and answers."""
    code = CHILD.format(
        folders=[str(ROOT / "tests"), str(ROOT / "tests/fixtures")],
        card=model.card.model_dump_json(),
        files=str(model.files),
        store=str(model.store),
        before=before,
    )
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=pipe, stderr=pipe)


def line_of(told: str, word: str) -> str:
    (line,) = [line for line in told.splitlines() if line.startswith(word)]
    return line


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_disk_that_gets_full_while_saving_loses_the_saving_alone(model: Published) -> None:
    """No file may grow beyond 50 kB, as on a disk that is full by then."""
    expected = model.start_elsewhere().says()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    with child(model, limit) as program:
        told, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    assert line_of(told, "ANSWER") == f"ANSWER {expected}"
    assert "Saving " in line_of(told, "TOLD")
    assert "Tiny is not saved as it was quantized: " in errors
    assert left(model.store) == []


def test_a_disk_that_would_be_left_too_full_is_not_written_to(
    model: Published, caplog: pytest.LogCaptureFixture
) -> None:
    assert model.start(free_bytes=lambda path: 5_000_100_000).says()
    assert left(model.store) == []
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


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_program_that_is_killed_while_saving_leaves_one_that_starts(model: Published) -> None:
    with child(model, KILLED) as program:
        program.communicate(timeout=120)
    assert program.returncode == -9
    (half,) = left(model.store / "tiny.quantized")
    assert half.endswith(".part"), "it died in the middle"
    assert store_of(model.store).all() == []
    assert model.start().has_saved
    (saved,) = left(model.store / "tiny.quantized")
    assert saved != half
    assert model.start().has_read_saved


def test_what_a_killed_program_left_is_removed_even_if_nothing_is_saved(model: Published) -> None:
    saved = model.save()
    (saved.folder.parent / "nf4-1234.part").mkdir()
    (saved.folder.parent / "nf4-1234.part" / "model.safetensors").write_bytes(b"half")
    assert model.start().has_read_saved
    assert left(saved.folder.parent) == [saved.folder.name]


@pytest.mark.slow
def test_programs_that_start_at_once_do_not_harm_one_another(
    model: Published, tmp_path: Path
) -> None:
    expected = model.start_elsewhere().says()
    meet = f"""
import time
Path({str(tmp_path)!r}, "here-" + str(__import__("os").getpid())).touch()
while len(list(Path({str(tmp_path)!r}).glob("here-*"))) < 2: time.sleep(0.01)
"""
    with child(model, meet) as one, child(model, meet) as two:
        for program in (one, two):
            told, errors = program.communicate(timeout=200)
            assert line_of(told, "ANSWER") == f"ANSWER {expected}", errors
            assert "cannot be read" not in errors
    assert len(left(model.store / "tiny.quantized")) == 1
    assert model.start().has_read_saved


def test_while_another_program_saves_a_model_it_is_loaded_and_not_saved(model: Published) -> None:
    inside, go, store = threading.Event(), threading.Event(), model.store
    record = model.start_elsewhere().checkpoints.all()[0].record

    def slowly(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half of it")
        inside.set()
        go.wait(60)
        raise OSError("no space left")

    saving = threading.Thread(target=store_of(store).save, args=("tiny", record, slowly))
    saving.start()
    assert inside.wait(60)
    try:
        start = model.start()
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
    write_profile(data / "models", "tiny", {"text-generation": ["tiny-mistral"]}, budget="500MB")
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


def test_a_stand_in_on_another_device_saves_nothing(model: Published) -> None:
    store, told = store_of(model.store), list[str]()
    with use_load_context(LoadContext(store, told.append, saves=False)):
        load(model.card, model.files, "cpu").close()
    store.wait()
    assert store.all() == []
    assert "as published" in told[0]


def test_settings_of_one_model_have_one_name() -> None:
    settings = QuantizationSettings(
        kind="nf4", compute="bfloat16", model="M", source="s", libraries={"bitsandbytes": "1"}
    )
    assert settings.folder_name.startswith("nf4_bfloat16_bitsandbytes-1_")
    assert settings.model_copy(update={"source": "t"}).folder_name != settings.folder_name
