"""What a job made, as a model in the chat: offered at once, after every start, and undone."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import peft
import pytest
import torch
import transformers
from conftest import wait_until
from fakes import client_of, served
from job_results import (
    BASE,
    OTHER,
    TEXT,
    adapter_job,
    make_job,
    save_models,
    start_program,
)
from own_models import write_card, write_profile
from tiny_adapters import adapter_card, save_adapter
from tiny_models import tokenizer
from tiny_text_gguf import TEXT_MODELS, make_model, write_text_model

from multimodal.build import Program
from multimodal.catalog.cards import ADAPTER_WEIGHTS, ModelCard
from multimodal.chats.service import Chats
from multimodal.errors import CardError, JobError, UnknownModelError
from multimodal.memory.estimate.footprint import adapter_bytes, footprint
from multimodal.messages import Controls, Conversation, Message, Outcome, TextPart
from multimodal.studio.context import Start, write_start
from multimodal.studio.folder import JobFolder
from multimodal.studio.results import install, installed, uninstall
from multimodal.studio.stacked_adapters import stack_adapters
from multimodal.turn.draft import Draft
from multimodal.web.chat_view import alternative_models
from multimodal.web.controls import to_inputs
from multimodal.web.layout import Layout
from multimodal.web.model_menu import ModelMenu
from multimodal.web.tab_session import TabSession
from multimodal.weights import Weights

ANN = "ann"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A folder of cards, and the configurations of its models."""
    models = tmp_path_factory.mktemp("own") / "models"
    return models, save_models(models)


@pytest.fixture
def models(saved: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "models"))


@pytest.fixture
def config(saved: Any) -> dict[str, Any]:
    """Of the base."""
    found: dict[str, Any] = saved[1][BASE]
    return found


@pytest.fixture
def program(tmp_path: Path, models: Path) -> Iterator[Program]:
    with closing(start_program(tmp_path / "data", models)) as built:
        yield built


@pytest.fixture
def cats(program: Program, config: dict[str, Any]) -> JobFolder:
    return adapter_job(program.settings.jobs_folder, "cats", config)


def begin(program: Program, model: str) -> Generator[Draft, None, None]:
    """The answer to a question in a new conversation, as it grows."""
    chats = Chats(program.store, program.media, program.assistant)
    talk = program.store.create(ANN)
    chats.open(ANN, talk).say("What colour is the car?", [])
    return chats.open(ANN, talk).answer(threading.Event(), Controls(model=model))


def reply(program: Program, model: str) -> tuple[str, Outcome]:
    *_, last = begin(program, model)
    assert last.reply.outcome is not None
    assert last.reply.outcome.error is None, last.reply.outcome.error
    return last.reply.text, last.reply.outcome


def offered(program: Program) -> list[str]:
    return [card.name for card in program.cards]


def menu_of(program: Program) -> ModelMenu:
    with gr.Blocks():
        return ModelMenu(program)


# ------------------------------------------------------------ offered


def test_a_result_is_offered_everywhere_at_once_and_gone_at_once(
    program: Program, cats: JobFolder
) -> None:
    menu = menu_of(program)
    plain, outcome = reply(program, "auto")
    last = Message("assistant", (TextPart(plain),), outcome=outcome)
    talked = Conversation((Message("user", (TextPart("Hello"),)), last))
    card = install(program, cats)
    assert (card.name, card.title) == ("cats", "Tiny-llama + cats")
    assert offered(program) == [BASE, "cats"]
    assert program.card("cats").adapter == cats.result
    assert program.catalog.title("cats") == card.title
    assert [name for _, name in menu.choices()] == ["auto", BASE, "cats"]
    assert alternative_models(program, talked) == ["cats"]
    assert [one.name for one in installed(program)] == ["cats"]
    uninstall(program, "cats")
    assert offered(program) == [BASE]
    assert [name for _, name in menu.choices()] == ["auto", BASE]
    assert alternative_models(program, talked) == []
    assert program.catalog.title("cats") == "cats"
    assert installed(program) == []
    with pytest.raises(UnknownModelError, match="offers no model 'cats'"):
        program.card("cats")


def test_it_answers_on_the_model_that_is_in_memory(program: Program, cats: JobFolder) -> None:
    plain, _ = reply(program, "auto")
    install(program, cats)
    taught, outcome = reply(program, "cats")
    assert taught != plain
    assert reply(program, "auto")[0] == plain
    assert [(timing.card, timing.evicted) for timing in outcome.timings] == [("cats", ())]
    assert outcome.timings[0].load_s > 0, "the adapter was put on"
    assert outcome.routes[0].reason == "You chose Tiny-llama + cats."
    snapshot = program.memory.snapshot()
    assert [held.card for held in snapshot.held] == [BASE]
    assert snapshot.decided == 1, "and nothing was loaded again"


def charged(program: Program, model: str) -> int:
    """What a turn of that model is charged beside the model, in bytes."""
    with closing(begin(program, model)) as drafts:
        return max(program.memory.snapshot().workspace_bytes for _ in drafts)


def test_an_adapters_bytes_are_charged_while_it_answers(program: Program, cats: JobFolder) -> None:
    card = install(program, cats)
    size = (cats.result / ADAPTER_WEIGHTS).stat().st_size
    assert adapter_bytes(card) == size > 0
    assert footprint(card).weights == footprint(program.card(BASE)).weights + size
    assert charged(program, "cats") == charged(program, BASE) + size
    assert program.memory.snapshot().workspace_bytes == 0


def test_it_is_there_again_after_a_restart(program: Program, cats: JobFolder, models: Path) -> None:
    install(program, cats)
    told, _ = reply(program, "cats")
    program.close()
    with closing(start_program(program.settings.data, models)) as later:
        assert offered(later) == [BASE, "cats"]
        assert reply(later, "cats")[0] == told
        uninstall(later, "cats")
    with closing(start_program(program.settings.data, models)) as last:
        assert offered(last) == [BASE]


def test_undoing_it_loses_nothing(program: Program, cats: JobFolder) -> None:
    install(program, cats)
    told, _ = reply(program, "cats")
    uninstall(program, "cats")
    before = sorted(path for path in cats.path.rglob("*"))
    assert cats.result.is_dir()
    assert install(program, cats) == install(program, cats), "twice does no harm"
    assert sorted(path for path in cats.path.rglob("*")) == before
    assert reply(program, "cats")[0] == told


def test_the_http_interface_lists_it_and_answers_with_it(program: Program, cats: JobFolder) -> None:
    with client_of(program) as client:
        assert [model.id for model in client.models.list()] == ["auto", BASE]
        install(program, cats)
        listed = {model.id: model for model in client.models.list()}
        assert list(listed) == ["auto", BASE, "cats"]
        assert listed["cats"].model_extra is not None
        assert listed["cats"].model_extra["x_base_model"] == BASE
        messages: Any = [{"role": "user", "content": "What colour is the car?"}]
        plain, taught = (
            client.chat.completions.create(model=name, messages=messages) for name in (BASE, "cats")
        )
        assert taught.model == "cats"
        assert taught.choices[0].message.content != plain.choices[0].message.content
        assert taught.system_fingerprint != plain.system_fingerprint


def test_its_health_is_that_of_the_model_it_is_put_on(program: Program, cats: JobFolder) -> None:
    import httpx2

    install(program, cats)
    with served(program) as url:
        assert httpx2.get(f"{url}/health").json()["models"]["cats"] == "absent"
        reply(program, "auto")
        assert httpx2.get(f"{url}/health").json()["models"]["cats"] == "ready"


def test_the_menu_says_that_its_base_is_loaded(program: Program, cats: JobFolder) -> None:
    menu = menu_of(program)
    menu.choices()
    install(program, cats)
    labels = {name: label for label, name in menu.choices()}
    assert labels["cats"].endswith("· ready"), "not that it is to be fetched"
    reply(program, "auto")
    assert {name: label for label, name in menu.choices()}["cats"].endswith("· loaded")


def knows_sizes(menu: ModelMenu) -> bool:
    """Whether no size is worked out any more, which would change a label."""
    menu.size_up()
    return "sizes" not in {thread.name for thread in threading.enumerate()}


def test_a_tabs_menu_is_told_once_of_each_change(program: Program, cats: JobFolder) -> None:
    with gr.Blocks():
        ui = Layout(program, "secret", None)
    using, other = TabSession(ANN), TabSession(ANN)
    for tab in (using, other):
        ui.menu.changes(tab)
    install(program, cats)
    wait_until(lambda: knows_sizes(ui.menu))
    for tab in (using, other):
        assert [name for _, name in ui.menu.changes(tab).choices] == ["auto", BASE, "cats"]
        assert not isinstance(ui.menu.changes(tab), gr.Dropdown), "nothing is new"
    opened = to_inputs(ui, Controls(model="cats"))[0]
    assert opened.value == "cats"
    assert "cats" in [name for _, name in opened.choices], "or it could not be sent from there"
    using.model = "cats"
    uninstall(program, "cats")
    assert (ui.menu.changes(using).value, using.model) == ("auto", "auto")
    assert "value" not in ui.menu.changes(other).constructor_args
    assert to_inputs(ui, Controls(model="cats"))[0].value == "auto"


def test_cards_come_and_go_while_others_are_read(program: Program, config: Any) -> None:
    jobs = [adapter_job(program.settings.jobs_folder, f"job{n}", config) for n in range(3)]
    wrong: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                found = offered(program)
                assert found[0] == BASE
                assert len(set(found)) == len(found)
            except BaseException as error:
                wrong.append(error)
                return

    def change(job: JobFolder) -> None:
        for _ in range(5):
            install(program, job)
            uninstall(program, job.id)

    reader = threading.Thread(target=read)
    reader.start()
    changers = [threading.Thread(target=change, args=(job,)) for job in jobs]
    for thread in changers:
        thread.start()
    for thread in changers:
        thread.join(60)
    stop.set()
    reader.join(60)
    assert not wrong
    assert offered(program) == [BASE]


# ------------------------------------------------------------ profiles


def test_it_is_offered_as_the_profile_offers_its_base(
    tmp_path: Path, models: Path, config: Any
) -> None:
    """Or base and adapter would be two models in memory."""
    write_profile(models, "tiny", {TEXT: [f"{BASE}:int8@256"]})
    with closing(start_program(tmp_path / "data", models)) as program:
        job = adapter_job(program.settings.jobs_folder, "cats", config)
        card = install(program, job)
        assert card.context_tokens == 256
        assert offered(program)[1] == "cats:int8@256"
        assert program.offer.resident(program.cards[1]).name == f"{BASE}:int8@256"
        reply(program, "auto")
        reply(program, "cats:int8@256")
        assert [held.card for held in program.memory.snapshot().held] == [f"{BASE}:int8@256"]
        assert program.offer.resident(program.card("cats:fp32")).name == f"{BASE}:fp32@256"
        uninstall(program, "cats:int8@256")
        assert len(offered(program)) == 1


def test_the_result_of_a_model_outside_the_profile_is_offered_where_its_weights_are(
    program: Program, saved: Any
) -> None:
    job = adapter_job(program.settings.jobs_folder, "dogs", saved[1][OTHER], OTHER)
    install(program, job)
    assert offered(program) == [BASE, "dogs"]
    reply(program, "dogs")
    assert [held.card for held in program.memory.snapshot().held] == [OTHER]
    with pytest.raises(UnknownModelError, match=f"offers no model '{OTHER}'"):
        program.card(OTHER)


def test_nothing_is_fetched_for_a_result_of_a_model_outside_the_profile(
    tmp_path: Path, models: Path, config: Any
) -> None:
    write_card(models, "far", TEXT, "causal_lm", source={"kind": "hub", "repo": "far/away"})
    with closing(start_program(tmp_path / "data", models)) as program:
        job = adapter_job(program.settings.jobs_folder, "cats", config, "far")
        with pytest.raises(JobError, match="is not offered: the weights of Far are not here"):
            install(program, job)
        assert offered(program) == [BASE]
        assert installed(program) == []


def test_a_base_that_changed_takes_its_adapters_along(
    program: Program, cats: JobFolder, models: Path
) -> None:
    install(program, cats)
    program.close()
    path = models / "cards" / TEXT / f"{BASE}.toml"
    path.write_text(path.read_text("utf-8").replace("context_tokens = 512", "context_tokens = 300"))
    with closing(start_program(program.settings.data, models)) as later:
        assert later.card(BASE).context_tokens == later.card("cats").context_tokens == 300


def test_a_profile_may_list_a_result_which_is_then_not_undone(
    program: Program, cats: JobFolder, models: Path
) -> None:
    install(program, cats)
    program.close()
    write_profile(models, "tiny", {TEXT: ["cats", BASE]})
    with closing(start_program(program.settings.data, models)) as later:
        # The profile is read before the data folder's own cards are known to be there.
        assert offered(later) == ["cats", BASE]
        assert reply(later, "auto")[1].timings[0].card == "cats"
        with pytest.raises(JobError, match="The profile tiny lists 'cats'"):
            uninstall(later, "cats")


# ------------------------------------------------------------ refused


def test_a_result_replaces_no_other_model(program: Program, config: Any, models: Path) -> None:
    jobs = program.settings.jobs_folder
    shipped = adapter_job(jobs, "phi-2", config)
    with pytest.raises(JobError, match="'phi-2' is the name of Phi-2, which a fine-tuned model"):
        install(program, shipped)
    with pytest.raises(CardError, match="'phi-2' is the name of Phi-2"):
        program.catalog.add(
            program.catalog.card(BASE).model_copy(update={"name": "phi-2", "base_model": BASE})
        )
    install(program, adapter_job(jobs, "cats", config))
    other = adapter_job(jobs / "imported", "cats", config, seed=2)
    with pytest.raises(JobError, match="Another job's result is installed as 'cats'"):
        install(program, other)
    assert program.card("cats").adapter == jobs / "cats" / "result"


def test_a_later_shipped_model_keeps_its_name(
    program: Program, cats: JobFolder, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(program, cats)
    program.close()
    write_card(models, "cats", TEXT, "causal_lm", title="The real cats")
    with closing(start_program(program.settings.data, models)) as later:
        assert later.catalog.title("cats") == "The real cats"
        assert "cats.toml is left out: there is another model 'cats'" in caplog.text


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_job_without_a_whole_result_is_refused_and_nothing_is_written(
    program: Program, config: Any, method: str
) -> None:
    jobs = program.settings.jobs_folder
    with pytest.raises(JobError, match="'none' has no whole result yet: "):
        install(program, make_job(jobs, "none", method=method))
    cut = make_job(jobs, "cut", make=lambda result: save_adapter(result, config))
    whole = (cut.result / ADAPTER_WEIGHTS).read_bytes()
    (cut.result / ADAPTER_WEIGHTS).write_bytes(whole[:-1])
    with pytest.raises(JobError, match=r"'cut' has no whole result yet: adapter_model\.saf"):
        install(program, cut)
    assert not list((program.settings.data / "models").rglob("*.toml"))
    assert offered(program) == [BASE]


def test_a_reward_model_is_not_for_chatting(program: Program, config: Any) -> None:
    job = adapter_job(program.settings.jobs_folder, "judge", config, method="reward")
    with pytest.raises(JobError, match="it judges answers and writes none"):
        install(program, job)


def test_what_is_not_installed_cannot_be_undone(program: Program, models: Path) -> None:
    for name in ("cats", BASE):
        with pytest.raises(JobError, match=f"No fine-tuned model called '{name}' is installed"):
            uninstall(program, name)


# ------------------------------------------------------------ damaged


def break_folder(job: JobFolder) -> None:
    shutil.rmtree(job.path)


def cut_weights(job: JobFolder) -> None:
    path = job.result / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:-4])


def empty_config(job: JobFolder) -> None:
    (job.result / "adapter_config.json").write_text("")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (break_folder, "its adapter should be in {}, which is gone."),
        (cut_weights, "adapter_model.safetensors is damaged or no file of safetensors"),
        (empty_config, "adapter_config.json is damaged or no configuration of an adapter."),
    ],
)
def test_a_program_starts_without_a_result_that_is_damaged_and_says_so(
    program: Program,
    cats: JobFolder,
    models: Path,
    damage: Any,
    sentence: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install(program, cats)
    program.close()
    damage(cats)
    caplog.clear()
    with (
        caplog.at_level(logging.WARNING),
        closing(start_program(program.settings.data, models)) as later,
    ):
        assert offered(later) == offered(later) == [BASE]
        told = [record.message for record in caplog.records if "cats" in record.message]
        assert len(told) == 1, "once"
        assert told[0].startswith("Tiny-llama + cats is not offered: ")
        assert sentence.format(cats.result) in told[0]
        with pytest.raises(UnknownModelError) as refused:
            later.card("cats")
        assert str(refused.value) == told[0]
        assert [card.name for card in installed(later)] == ["cats"]
        reply(later, "auto")
        uninstall(later, "cats")
        assert installed(later) == []


def test_an_adapter_that_goes_while_the_program_runs_fails_its_own_turns_only(
    program: Program, cats: JobFolder
) -> None:
    install(program, cats)
    plain, _ = reply(program, "auto")
    shutil.rmtree(cats.path)
    with pytest.raises(AssertionError, match="cats cannot be used: its adapter should be in"):
        reply(program, "cats")
    assert reply(program, "auto")[0] == plain


def test_a_result_of_a_model_that_is_unknown_now_is_told(
    program: Program, cats: JobFolder, models: Path
) -> None:
    install(program, cats)
    program.close()
    (models / "cards" / TEXT / f"{BASE}.toml").unlink()
    write_profile(models, "tiny", {TEXT: [OTHER]})
    with closing(start_program(program.settings.data, models)) as later:
        assert offered(later) == [OTHER]
        assert later.offer.faults["cats"].endswith(f"made from, '{BASE}', is not known any more.")


# ------------------------------------------------------------ whole models, adapters on adapters


def save_parts(folder: Path, model: Any) -> None:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def save_model(folder: Path, source: Path) -> None:
    """A model of which every weight was trained."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    torch.manual_seed(9)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def test_a_model_trained_as_a_whole_is_a_model_of_its_own(program: Program, saved: Any) -> None:
    source = saved[0].parent / BASE
    job = make_job(
        program.settings.jobs_folder,
        "whole",
        make=lambda result: save_model(result, source),
        method="full",
    )
    card = install(program, job)
    assert (card.family, card.adapter, card.base_model) == ("causal_lm", None, BASE)
    assert program.weights.ensure(card) == job.result
    assert footprint(card) == footprint(program.card(BASE))
    plain, _ = reply(program, BASE)
    assert reply(program, "whole")[0] != plain
    names = {held.card for held in program.memory.snapshot().held}
    assert names == {BASE, "whole"}
    uninstall(program, "whole")
    left = program.memory.snapshot()
    assert {held.card for held in left.held} == {BASE}


def test_an_adapter_of_a_gguf_model_is_loaded_with_it_and_says_so(
    tmp_path: Path, models: Path
) -> None:
    model = make_model("llama")
    write_text_model(models.parent / "gguf" / "model.gguf", "llama", model)
    write_card(
        models,
        "packed",
        TEXT,
        "llama_cpp",
        source={"kind": "folder", "path": str(models.parent / "gguf")},
        context_tokens=256,
        sampling={"temperature": 0.0, "max_tokens": 16},
        engine={"threads": 1},
    )
    write_profile(models, "tiny", {TEXT: ["packed"]})
    with closing(start_program(tmp_path / "data", models)) as program:
        plain, _ = reply(program, "auto")
        job = adapter_job(program.settings.jobs_folder, "cats", TEXT_MODELS["llama"], "packed")
        card = install(program, job)
        assert program.offer.resident(card) is card
        taught, outcome = reply(program, "cats")
        assert taught != plain
        (told,) = outcome.notices
        assert re.match(r"Packed \+ cats was loaded anew in [\d.]+ s, with its base: ", told)
        assert reply(program, "cats")[1].notices == (), "once for each load"
        assert {held.card for held in program.memory.snapshot().held} == {"packed", "cats"}
        uninstall(program, "cats")
        assert {held.card for held in program.memory.snapshot().held} == {"packed"}
        whole = make_job(
            program.settings.jobs_folder,
            "whole",
            "packed",
            lambda result: save_parts(result, model),
            method="full",
        )
        found = install(program, whole)
        assert (found.family, found.engine, found.concurrency) == ("causal_lm", {}, 1)
        assert footprint(found, "fp32").weights > 4 * 2 * 400 * 64, "by its own configuration"
        assert reply(program, "whole")[0]


def test_the_weights_of_an_adapters_base_are_kept_once(
    program: Program, cats: JobFolder, tmp_path: Path
) -> None:
    """Whoever asks for those of the adapter gets those of its base."""
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"of the base")
    told = hashlib.sha256(file.read_bytes()).hexdigest()
    place = {"kind": "folder", "path": str(file)}
    one = {"path": "model.gguf", "sha256": told, "size_bytes": 11, "places": [place]}
    base = program.card(BASE)
    changed = {**base.model_dump(mode="json"), "source": {"kind": "files", "files": [one]}}
    base = ModelCard.model_validate(changed)
    adapter = adapter_card(base, cats.result, "cats")
    weights = Weights(tmp_path / "weights")
    assert not weights.is_ready(adapter)
    assert weights.ensure(adapter) == weights.ensure(base) == tmp_path / "weights" / BASE
    assert weights.is_ready(adapter)
    assert [path.name for path in (tmp_path / "weights").iterdir() if path.is_dir()] == [BASE]


def test_a_model_that_waits_in_host_memory_goes_with_its_card(program: Program, saved: Any) -> None:
    """Or the next one of that name would answer with its weights."""
    job = make_job(
        program.settings.jobs_folder,
        "whole",
        make=lambda result: save_model(result, saved[0].parent / BASE),
        method="full",
    )
    install(program, job)
    reply(program, "whole")
    with program.memory.reserve(
        "work", program.memory.budget_bytes, threading.Event()
    ) as all_of_it:
        for _ in all_of_it.wait():
            pass
    assert [kept.card for kept in program.memory.snapshot().mirrored] == ["whole"]
    uninstall(program, "whole")
    assert program.memory.snapshot().mirrored == ()


def test_an_adapter_taught_on_top_of_another_is_both(
    program: Program, config: Any, saved: Any, tmp_path: Path
) -> None:
    jobs = program.settings.jobs_folder
    first = adapter_job(jobs, "first", config, seed=1)
    install(program, first)
    second = adapter_job(jobs, "second", config, "first", seed=2)
    write_start(second, Start(program.catalog.card(BASE), tmp_path, "cpu", 0, adapter=first.result))
    card = install(program, second)
    assert (card.base_model, card.adapter) == (BASE, second.path / "adapter")
    uninstall(program, "first")
    base: Any = transformers.AutoModelForCausalLM.from_pretrained(saved[0].parent / BASE)
    merged = peft.PeftModel.from_pretrained(base, str(first.result)).merge_and_unload()
    both: Any = peft.PeftModel.from_pretrained(merged, str(second.result)).eval()
    ids = torch.arange(5, 40)[None]
    expected = both(ids).logits
    fresh: Any = transformers.AutoModelForCausalLM.from_pretrained(saved[0].parent / BASE)
    stacked: Any = peft.PeftModel.from_pretrained(fresh, str(second.path / "adapter")).eval()
    assert torch.allclose(stacked(ids).logits, expected, atol=1e-3)
    assert reply(program, "second")[0]


def test_stacked_adapters_may_be_of_different_layers(config: Any, tmp_path: Path) -> None:
    one = save_adapter(tmp_path / "one", config, 1, ["q_proj", "v_proj"], r=4)
    two = save_adapter(tmp_path / "two", config, 2, ["v_proj", "up_proj"], r=8, use_rslora=True)
    stack_adapters([one, two], tmp_path / "both")
    base = transformers.AutoConfig.for_model(**config)
    ids = torch.arange(5, 40)[None]

    def logits(*adapters: Path) -> torch.Tensor:
        torch.manual_seed(1)
        model: Any = transformers.AutoModelForCausalLM.from_config(base)
        for adapter in adapters:
            model = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        found: torch.Tensor = model.eval()(ids).logits
        return found

    assert torch.allclose(logits(tmp_path / "both"), logits(one, two), atol=1e-4)
    assert not torch.allclose(logits(one), logits(one, two), atol=1e-1)
