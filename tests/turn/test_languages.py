"""A third language is a file; one that lacks something is refused by the name of its key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from multimodal.errors import ConfigurationError
from multimodal.turn.vocabulary import FOLDER, LANGUAGES, read_languages

GERMAN = ROOT / "tests/fixtures/languages/de.toml"
ASKED = {
    "Zeichne mir bitte ein Haus": "drawing",
    "Hallo, zeichne ein Haus": "drawing",
    "Und was siehst du auf diesem Bild?": "general",
    "Beschreibe das Foto": "general",
    "Welche Farben?": "colours",
    "Wie viele Leute sind auf dem Bild?": "objects",
    "Wie viele Hunde?": "objects",
    "Kannst du das zweite Bild loben?": "text",
}
PROGRAM = """
import json, sys
from pathlib import Path
from multimodal.catalog.cards import Catalog
from multimodal.messages import Conversation, ImagePart, Message, TextPart
from multimodal.turn.router import Router

catalog, found = Catalog([Path("models")]), {}
router = Router(catalog, catalog.profile("embedded"))
for words, told in json.load(sys.stdin).items():
    image = () if told == "drawing" else (ImagePart("a" * 64, "image/webp", 4, 3, "a.jpg"),)
    route = router.decide(Conversation((Message("user", (*image, TextPart(words))),)))
    found[words] = "drawing" if route.answer else route.steps[0].focus
    if route.steps and route.steps[-1].task == "text-generation":
        found[words] = "text"
print(json.dumps(found))
"""


def asked(folder: Path) -> dict[str, str]:
    """What the program in that folder takes each sentence to ask for."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(ASKED),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_third_language_is_a_file(tmp_path: Path) -> None:
    """The program as it is, with one file more."""
    assert set(asked(ROOT).values()) == {"text"}
    for part in ("multimodal", "models"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(GERMAN, tmp_path / FOLDER.relative_to(ROOT))
    assert asked(tmp_path) == ASKED


def test_every_pattern_of_the_reference_is_written() -> None:
    assert all(LANGUAGES["en"].patterns.values())


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("draw = [", "drew = [", r"de\.toml: patterns\.draw is missing; compare en\.toml"),
        ("[objects]", "[objects]\nunicorn = 'x'", r"de\.toml: objects\.unicorn is unknown"),
        ("[numbers]", "[numbers]\n7 = 'x'", r"de\.toml: numbers\.7 is unknown"),
        ("-1 =", "-9 =", r"de\.toml: ordinals\.-1 is missing"),
        ("[manners]", "", r"de\.toml: manners: Field required"),
        ("faces = []", "faces = 'x'", r"de\.toml: patterns\.faces: "),
        ("[words]", "[words", r"de\.toml: .* line 3"),
    ],
)
def test_a_file_that_lacks_something_is_refused_by_its_key(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    shutil.copy(FOLDER / "en.toml", tmp_path)
    (tmp_path / "de.toml").write_text(GERMAN.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(ConfigurationError, match=sentence):
        read_languages(tmp_path)


def test_a_word_that_a_file_does_not_have_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"fr\.toml: <BEING> is not among its words"):
        LANGUAGES["fr"].expand("un <BEING>")
