"""An adapter that learns from single ratings."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tiny_preferences import notices, rated, result_tensors, told
from tiny_recipes import Checkpoint, make_job, run_recipe, save_untaught

from multimodal.errors import DataError
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.kto import (
    KtoRecipe,
    LossWeights,
    balance,
    interleave_labels,
    label_margins,
    pad_last_batch,
)
from multimodal.studio.records import Report


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("untaught"))


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint
) -> tuple[JobContext, Report]:
    """Of 33 samples, so that the last batch would be of one, and with a batch of one asked for."""
    folder = tmp_path_factory.mktemp("jobs") / "kto"
    job = make_job(
        folder, checkpoint, rated(33), rated(12, 33), method="kto", batch=1, accumulation=4
    )
    return job, run_recipe(KtoRecipe(job))


def test_margin_of_held_out_ratings_rises(taught: tuple[JobContext, Report]) -> None:
    job, report = taught
    assert report.passed
    assert report.measure == "margin"
    assert report.change is not None
    assert report.change.low > 0.3
    assert all("lora_" in name for name in result_tensors(job))


def test_reference_of_ratings_is_the_base_without_the_adapter(
    taught: tuple[JobContext, Report],
) -> None:
    job, _ = taught
    rewards = told(job, "rewards/margins")
    assert len(rewards) >= len(told(job, "loss")) - 2  # batches have both labels
    assert rewards[0] == pytest.approx(0, abs=1e-5)
    assert rewards[-1] > 0.2
    assert told(job, "kl")[0] == pytest.approx(0, abs=1e-5)


def test_batch_of_one_is_made_two_and_told(taught: tuple[JobContext, Report]) -> None:
    job, _ = taught
    status = job.folder.status()
    assert (status.batch, status.accumulation) == (2, 2)
    assert "so 2 are computed at once, 2 times before each update" in notices(job)


def test_what_is_shown_as_expected_was_liked(taught: tuple[JobContext, Report]) -> None:
    job, report = taught
    expected = [one.expected for one in [*report.comparisons, *job.folder.samples()]]
    assert expected
    assert all(answer.strip().startswith("The ") for answer in expected)


@pytest.mark.parametrize("is_liked", [True, False])
def test_one_kind_of_rating_alone_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, is_liked: bool
) -> None:
    rows = [row for row in rated(16) if row["label"] == is_liked]
    job = make_job(tmp_path / "job", checkpoint, rows, rated(4, 33), method="kto")
    with pytest.raises(DataError, match=f"none of the 8 samples is {'dis' * is_liked}liked"):
        run_recipe(KtoRecipe(job))


@pytest.mark.parametrize(
    ("liked", "others", "weights"),
    [
        (10, 10, LossWeights(1, 1)),
        (13, 10, LossWeights(1, 1)),
        (20, 10, LossWeights(1, 2)),
        (10, 100, LossWeights(10, 1)),
        (9, 10, LossWeights(10 / 9, 1)),
    ],
)
def test_rarer_label_weighs_more(liked: int, others: int, weights: LossWeights) -> None:
    assert balance([True] * liked + [False] * others) == weights


@given(st.integers(1, 500), st.integers(1, 500))
def test_weighted_labels_are_within_what_the_authors_recommend(liked: int, others: int) -> None:
    weights = balance([True] * liked + [False] * others)
    share = liked * weights.desirable / (others * weights.undesirable)
    assert 1 - 1e-9 <= share <= 4 / 3 + 1e-9
    assert min(weights) == 1


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 9))
def test_labels_come_evenly(liked: int, others: int, seed: int) -> None:
    rows = [{"number": at, "label": at < liked} for at in range(liked + others)]
    spread = interleave_labels(rows, seed)
    assert sorted(row["number"] for row in spread) == list(range(liked + others))
    for size in range(1, len(spread) + 1):
        seen = sum(row["label"] for row in spread[:size])
        assert abs(seen - size * liked / len(spread)) <= 1


def test_order_of_samples_is_that_of_the_seed() -> None:
    rows = rated(16)
    assert interleave_labels(rows, 1) == interleave_labels(rows, 1) != interleave_labels(rows, 2)


@given(st.integers(1, 40), st.integers(2, 8))
def test_no_batch_is_of_one_sample(count: int, batch: int) -> None:
    numbers = pad_last_batch(Dataset.from_dict({"number": list(range(count))}), batch)["number"]
    assert len(numbers) % batch != 1
    assert set(numbers) == set(range(count))
    assert len(numbers) <= count + 1


Ratings = st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=30)


@given(Ratings)
def test_mean_of_label_margins_is_what_liked_answers_have_more(
    ratings: list[tuple[float, bool]],
) -> None:
    values, labels = zip(*ratings, strict=True)
    liked = [value for value, label in ratings if label]
    others = [value for value, label in ratings if not label]
    margins = label_margins(values, labels)
    if liked and others:
        expected = sum(liked) / len(liked) - sum(others) / len(others)
        assert sum(margins) / len(margins) == pytest.approx(expected, abs=1e-6)
    else:
        assert margins == [value if label else -value for value, label in ratings]


def test_what_all_answers_have_in_common_is_no_margin() -> None:
    labels = [True, True, True, False]
    values = [1.0, 2.0, 3.0, 1.5]
    shifted = label_margins([value + 7 for value in values], labels)
    assert shifted == pytest.approx(label_margins(values, labels))
