"""What goes into speech models, and what comes out of a denoising step, against the formulas of the
papers and the authors' own code, restated here with numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import whisper
from faster_whisper.feature_extractor import FeatureExtractor
from tiny_hearing import save_wav2vec2
from transformers import AutoFeatureExtractor

from multimodal.backends.diffusion.pipeline import SCHEDULERS


@pytest.mark.parametrize("bands", [80, 128])
def test_both_whisper_engines_hear_the_same_features(story: Any, bands: int) -> None:
    """The log-mel spectrogram that the weights were trained on is openai-whisper's; faster-whisper
    computes its own."""
    padded = whisper.pad_or_trim(story)
    wanted = whisper.log_mel_spectrogram(padded, bands).numpy()
    found = FeatureExtractor(feature_size=bands)(padded, padding=0)[:, : wanted.shape[1]]
    assert wanted.shape == (bands, 3000)
    assert np.abs(found - wanted).max() < 1e-4
    assert wanted.std() > 0.1


def test_wav2vec2_hears_sound_of_no_mean_and_unit_variance(story: Any, tmp_path: Path) -> None:
    """fairseq normalizes a recording as a layer does, with 1e-5 added to the variance."""
    save_wav2vec2(tmp_path)
    extractor: Any = AutoFeatureExtractor.from_pretrained(tmp_path)
    found = extractor(story, sampling_rate=16_000, return_tensors="np").input_values[0]
    wanted = (story - story.mean()) / np.sqrt(story.var() + 1e-5)
    assert np.abs(found - wanted).max() < 0.001 * np.abs(wanted).max()


BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
"""Stable Diffusion's noise at each of 1,000 steps, from its own configuration."""


def test_a_step_of_ddim_is_that_of_its_paper() -> None:
    """Song, Meng and Ermon 2020, formula 12 without fresh noise."""
    name, more = SCHEDULERS["ddim"]
    scheduler: Any = getattr(diffusers, name)(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **more,
    )
    scheduler.set_timesteps(25)
    random = np.random.default_rng(3)
    sample, noise = random.standard_normal((2, 1, 4, 8, 8))
    kept = np.cumprod(1 - BETAS)
    for at in (0, 10, 23):
        now, then = (int(scheduler.timesteps[place]) for place in (at, at + 1))
        clean = (sample - np.sqrt(1 - kept[now]) * noise) / np.sqrt(kept[now])
        wanted = np.sqrt(kept[then]) * clean + np.sqrt(1 - kept[then]) * noise
        found = scheduler.step(torch.tensor(noise), now, torch.tensor(sample)).prev_sample
        assert np.abs(found.numpy() - wanted).max() < 1e-4
