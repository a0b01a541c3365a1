"""How a model is sampled: what its authors published with it, the card over that, the person or
request over both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from text_requests import QUESTION, ask
from tiny_models import hub_card, load_causal, save_causal

from multimodal.backends.hf.causal_lm import CausalLM
from multimodal.backends.hf.generation import published_sampling
from multimodal.backends.sampling import PublishedSampling, ResolvedSampling, resolve_sampling
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.messages import Sampling

OWN = PublishedSampling(temperature=0.3, top_p=0.5, top_k=20, min_p=0.1, repeat_penalty=1.05)


def card(**sampling: Any) -> ModelCard:
    return hub_card("causal_lm", "AutoModelForCausalLM", {}, sampling=sampling)


def resolved(given: Sampling, of: ModelCard, own: PublishedSampling = OWN) -> ResolvedSampling:
    return resolve_sampling(given, of, 4096, own)


def test_what_the_authors_published_holds_where_nobody_says_otherwise() -> None:
    found = resolved(Sampling(), card())
    assert (found.temperature, found.top_p, found.repeat_penalty) == (0.3, 0.5, 1.05)
    assert (found.top_k, found.min_p) == (20, 0.1)


def test_the_card_overrides_the_authors_and_the_person_both() -> None:
    stated = card(temperature=0.6, top_p=0.8, top_k=40, min_p=0.2, repeat_penalty=1.2)
    found = resolved(Sampling(), stated)
    assert (found.temperature, found.top_p, found.repeat_penalty) == (0.6, 0.8, 1.2)
    assert (found.top_k, found.min_p) == (40, 0.2)
    given = Sampling(temperature=0.0, top_p=1.0, repeat_penalty=1.0)
    found = resolved(given, stated)
    assert (found.temperature, found.top_p, found.repeat_penalty) == (0, 1, 1)


def test_each_value_is_overridden_by_itself() -> None:
    found = resolved(Sampling(temperature=1.5), card(top_p=0.8))
    assert (found.temperature, found.top_p, found.repeat_penalty) == (1.5, 0.8, 1.05)


def test_a_model_that_says_nothing_is_penalized_for_nothing_and_loses_no_token() -> None:
    found = resolved(Sampling(), card(), PublishedSampling())
    assert (found.top_p, found.repeat_penalty) == (1, 1)
    assert not found.top_k
    assert not found.min_p


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ({}, PublishedSampling()),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
            PublishedSampling(temperature=0.6, top_p=0.9),
        ),
        ({"temperature": 0.9, "top_p": 0.6}, PublishedSampling(temperature=0.9, top_p=0.6)),
        ({"do_sample": True}, PublishedSampling(temperature=1.0)),
        (
            {"do_sample": True, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05},
            PublishedSampling(1.0, None, 20, 0.05, 1.05),
        ),
        (
            {"do_sample": False, "repetition_penalty": 1.5},
            PublishedSampling(0.0, repeat_penalty=1.5),
        ),
        ({"repetition_penalty": 1.5}, PublishedSampling(repeat_penalty=1.5)),
    ],
)
def test_a_published_generation_config_is_read(
    tmp_path: Path, published: dict[str, Any], expected: PublishedSampling
) -> None:
    model = published_model(tmp_path, **published)
    assert published_sampling(model.modules()[0]) == expected


def published_model(folder: Path, stated: ModelCard | None = None, **published: Any) -> CausalLM:
    """A checkpoint with these values in its generation_config.json, loaded."""
    config = save_causal(folder, "llama")
    facts = {"eos_token_id": 3, "pad_token_id": 0, "transformers_version": "4.40.0", **published}
    (folder / "generation_config.json").write_text(json.dumps(facts))
    return load_causal((folder, config), sampling=(stated or card()).sampling)


def said(model: CausalLM, **given: Any) -> str:
    return ask(model, QUESTION, sampling=Sampling(seed=3, max_tokens=24, **given)).text


def test_a_reply_is_drawn_as_the_checkpoint_says(tmp_path: Path) -> None:
    warm = {"do_sample": True, "temperature": 1.5, "top_k": 20, "repetition_penalty": 1.3}
    model = published_model(tmp_path / "warm", **warm)
    greedy = published_model(tmp_path / "greedy", do_sample=False)
    same = published_model(
        tmp_path / "card", card(temperature=1.5, top_k=20, repeat_penalty=1.3), do_sample=False
    )
    assert said(model) == said(same) != said(greedy)
    assert said(greedy) == said(model, temperature=0.0, repeat_penalty=1.0)
    assert said(model, temperature=1.5) == said(model)


@pytest.mark.parametrize(
    "published",
    [
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 10},
        {"num_beams": 4},
        {"max_length": 4},
        {"use_cache": False},
    ],
)
def test_what_a_checkpoint_says_of_the_engine_breaks_no_reply(
    tmp_path: Path, published: dict[str, Any]
) -> None:
    plain = published_model(tmp_path / "plain", do_sample=False)
    assert said(published_model(tmp_path / "odd", do_sample=False, **published)) == said(plain)


def test_a_published_file_that_contradicts_itself_is_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transformers.logging.enable_propagation()
    said(published_model(tmp_path, do_sample=False, temperature=0.6, top_p=0.9, max_length=4096))
    transformers.logging.disable_propagation()
    assert not [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_minigpt_4_is_sampled_as_its_authors_do(catalog: Catalog) -> None:
    """Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py."""
    for name in ("minigpt-4-vicuna-7b", "minigpt-4-llama-2-7b"):
        found = resolved(Sampling(), catalog.card(name))
        assert (found.temperature, found.top_p, found.repeat_penalty) == (1.0, 0.9, 1.05)
