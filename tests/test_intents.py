"""What words ask for: tables of sentences as people type and say them, in English and French."""

from __future__ import annotations

import time

import pytest

from multimodal.intents import (
    focus_of,
    means_many_pictures,
    names_a_picture,
    ordinal_of,
    points_at_something,
    wants_drawing,
    wants_transcript,
)

ABOUT_A_PICTURE = {
    "general": """
        What is this?
        what's that
        whats this
        What is it?
        What are these?
        Who is this?
        Hi! What is this?
        Hello, can you tell me what this is?
        Do you know what this is?
        What is that thing on the left?
        What is this called?
        What is in this picture?
        What's in the image?
        what's in it?
        What is on the plate?
        What is here?
        what do you see?
        What can you see here?
        What else do you see?
        Tell me what you see
        Can you see this?
        What does this picture show?
        What is shown here?
        What's going on in this photo?
        Describe the picture.
        Describe this
        describe
        Please describe the image in detail.
        Can you describe this photo for me?
        Could you please identify this?
        caption this
        Give me a caption.
        What animal is this?
        Which breed is it?
        which breed?
        What breed of dog is this?
        What kind of food is this?
        What type of plant is that?
        What bird is in the picture?
        Look at this!
        Tell me about this image
        This is my dog. What breed is he?
        What is this? What does it say?
        Décris cette image
        Peux-tu décrire cette photo ?
        Que vois-tu ?
        Dis-moi ce que c'est.
        Que vois-tu sur cette photo ?
        Que voit-on ici ?
        Que montre cette image ?
        Qu'est-ce que tu vois ?
        Qu'est-ce qu'on voit sur la photo ?
        Qu'est-ce qu'il y a sur cette photo ?
        Qu'y a-t-il sur l'image ?
        C'est quoi ?
        C'est quoi ça ?
        Qu'est-ce que c'est ?
        Quel animal est-ce ?
        Quelle race est-ce ?
        Bonjour, qu'est-ce que c'est ?
        Qui est-ce ?
    """,
    "text": """
        What does it say?
        what does this say
        What does the sign say?
        What do the words on the wall say?
        Read this to me
        Read it
        Read it aloud, please
        read the sign
        Please read the text
        Can you read the text?
        Could you read this for me?
        Read what is on the label
        Read me the text.
        Extract the text
        OCR this
        What is written here?
        What is written on the sign?
        what's written there
        What is printed on the cup?
        what are the words
        What's the text?
        What is the title?
        What words are in the picture?
        What text can you see?
        What is on the label?
        Is there any text?
        Are there any words in it?
        Does it contain any text?
        Any text?
        Lis le texte
        Lis-moi ça
        Peux-tu lire le panneau ?
        Qu'est-ce qui est écrit ?
        Que dit le panneau ?
        Il y a du texte ?
        Quel est le texte ?
    """,
    "colours": """
        What color is it?
        what colour is this?
        What colour is the sky?
        What color is the cat's fur?
        Which colours does it have?
        What colors do you see?
        What colours are there in this picture?
        And what color are his eyes?
        What's the color of the car?
        What are the main colours?
        What about the colours?
        List the colors
        Name the main colours.
        Can you tell me the colours?
        Colours?
        De quelle couleur est-il ?
        Quelle couleur ?
        Quelles couleurs vois-tu ?
        Quelles sont les couleurs ?
        C'est un chat. De quelle couleur est-il ?
    """,
    "faces": """
        How many people are there?
        how many people
        How many people do you see?
        How many people can you see in this picture?
        how many faces can you see
        How many persons are in the photo?
        Count the faces
        Please count the people in the picture.
        Is there anyone in the picture?
        Is there a person in this image?
        Are there any people?
        Are there people here?
        Do you see any faces?
        Can you see anyone?
        Any people?
        any faces there?
        Combien de personnes ?
        Combien de visages vois-tu ?
        Combien de personnes y a-t-il sur la photo ?
        Il y a quelqu'un ?
        Y a-t-il des gens sur cette photo ?
    """,
    None: """
        Is it dangerous?
        Write a poem about it
        Write a story about the people in this photo
        Write a text about this
        Why is the cat sad?
        How old do you think it is?
        Would this go well with milk?
        What is this used for?
        What is this made of?
        What does this mean?
        What is it worth?
        What is he doing?
        What are these good for?
        What do these have in common?
        What would look good with this?
        What color would match this shirt?
        What colour should I paint the wall to match?
        What color do you get when you mix red and blue?
        I read a book
        I read that this mushroom is poisonous.
        Translate the text
        Read the text and translate it
        Read this and tell me why it is funny
        What does it say in English?
        Summarize the text in this picture
        Explain the words on the sign
        In other words, it is nice.
        Read me a story
        How many people live in Tokyo?
        How many people are there in France?
        Are there people who never sleep?
        Is there anyone I can talk to?
        What does the Bible say about love?
        What do experts say?
        What is the text of the First Amendment?
        What is photosynthesis?
        What is the capital of France?
        What's up?
        I got this rash yesterday. What is it? Should I see a doctor?
        My cat.
        Thanks!
        Tell me a joke about this
        What happened here?
        Suggest a name for him
        Pourquoi est-il triste ?
        Écris un poème sur cette image
        Traduis le texte
        Explique ce panneau
        C'est quoi la photosynthèse ?
        Qu'est-ce que la photosynthèse ?
        J'aime lire des romans.
        Quelle est la capitale de la France ?
        Combien de personnes vivent à Paris ?
    """,
}
DRAWING = """
    Draw a cat
    draw me a house
    please draw me a house
    Hi, can you draw a dragon?
    Could you please draw a map of France?
    I want you to draw a robot
    Now draw it in blue
    Paint a sunset over the sea
    Can you sketch a dragon?
    Would you paint me a portrait?
    Illustrate this story
    Make a picture of a dog
    Make me an image of a dog
    generate an image of a castle at night
    Create a photo-realistic picture of a fox
    Create a logo for my bakery
    Show me a picture of a whale
    Give me a drawing with two cats
    I want a picture of a sunset
    I'd like an image of a red car
    I would love a painting of my village
    Thanks! Now draw a dog.
    Design a poster for our concert
    Dessine un mouton
    Dessine-moi un mouton
    Peux-tu dessiner un chat ?
    S'il te plaît, dessine une maison
    Crée une image d'un château
    Génère une image de chat
    Fais-moi un dessin d'un chien
    Je voudrais une image d'un lion
    Peins un coucher de soleil
"""
NOT_DRAWING = """
    How do I draw a cat?
    What does 'draw' mean in chess?
    The game was a draw.
    Who painted the Mona Lisa?
    I have a picture of a dog.
    A picture is worth a thousand words.
    Draw a conclusion from this text
    Draw conclusions.
    Draw up a contract
    Draw a comparison between cats and dogs
    Illustrate the idea of recursion with an example
    Sketch out a plan for my week
    How do I create an image of my hard disk?
    Make a list of photos with captions
    Give me a description of the picture with the dog
    Make the picture brighter
    Show me how to draw
    What is a good picture of health?
    Create a table of image sizes
    I drew a picture of a cat yesterday
    Give me an example of a painting
    Write a poem about painting
    Generate a password
    Comment dessiner un mouton ?
    Qui a peint la Joconde ?
    Fais une liste de dessins animés
    J'ai une photo d'un chien
"""
TRANSCRIPT = """
    Transcribe this
    transcribe
    Can you transcribe the recording?
    Please write this down
    write it down please
    Type this up
    I need a transcript
    subtitles please
    What did he say?
    What does she say?
    what is he saying
    What am I saying?
    What does the recording say?
    What did the man say?
    What is being said?
    what was said
    Transcris ceci
    Peux-tu transcrire ?
    Écris ce que je dis
    Note ce que j'ai dit
    Qu'est-ce qu'il dit ?
    Que dit-elle ?
    Mets ça par écrit
"""
NO_TRANSCRIPT = """
    What do you think about this?
    Answer my question
    Is he right?
    Transcribe and translate it
    Transcribe this and summarize it
    Summarize what he said
    Translate this
    What language is this?
    Who is speaking?
    Say hello
    Qu'en penses-tu ?
    Traduis ça
"""
FOLLOW_UP = """
    What colour is it?
    What color are his eyes?
    Is it a tabby?
    Is he sleeping?
    What else do you see?
    How old is she?
    Where was this taken?
    What is that?
    What about that one?
    And the background?
    Is there a dog?
    Are there any people?
    How many people are there?
    Is there anything else?
    What does the sign say?
    Can you read the text?
    Any text?
    Is it safe to eat?
    What is he wearing?
    Do you see a car?
    What breed is it?
    which breed?
    Describe it.
    Describe.
    Write a poem about it
    Does it have a tail?
    Do they look happy?
    What is this used for?
    What kind of animal is this?
    Can you describe it in more detail?
    It looks sad, why?
    De quelle couleur est-il ?
    Que vois-tu ?
    Qu'est-ce que c'est ?
    C'est quoi ça ?
    Est-ce un chat ?
    Elle a quel âge ?
    Y a-t-il un chien ?
    Quel animal est-ce ?
    Et le fond ?
"""
NO_FOLLOW_UP = """
    What is photosynthesis?
    Thanks!
    Thanks, that was helpful
    Tell me a joke.
    Hello
    I like it.
    That is my dog Rex.
    Nice, I like that
    I don't get it.
    What time is it?
    What day is it today?
    Is it raining?
    Is it true that cats sleep all day?
    Is it possible to learn French in a month?
    How is it going?
    How long does it take to boil an egg?
    How far is it to the moon?
    What do you mean by that?
    Can you say that again?
    Repeat that.
    Make it shorter.
    Translate it into German
    Explain that
    Are you sure about that?
    Is that true?
    How do you know?
    Who was Napoleon and when did he die?
    Who was Marie Curie and what did she discover?
    Is there life on Mars?
    Is there a country that borders nobody?
    Who won the election this year?
    Who said that life is short?
    Describe the French revolution
    What animal is the fastest on earth in the water?
    What kind of food is healthy?
    What is the capital of France?
    If a train leaves at five and another leaves at six on the same line, when will it arrive?
    Why?
    Can you help me with my homework?
    How many people live in Tokyo?
    I read a book
    Write a poem about the sea
    Quelle heure est-il ?
    Est-ce que Paris est grand ?
    Qu'est-ce que la photosynthèse ?
    C'est quoi la photosynthèse ?
    Merci !
    Il pleut ?
    Que veux-tu dire ?
    Combien de planètes y a-t-il ?
    Raconte une blague
"""
NAMES_A_PICTURE = """
    What does the first picture say?
    What colour was the cat in the picture?
    Who is in that photo?
    Back to my picture: is it a dog?
    What was in the last image I sent?
    What picture did I send?
    Compare both pictures
    Describe picture 2
    In the screenshot, what is written?
    What was in the previous one? I mean the previous picture.
    Que dit la première image ?
    Qui est sur cette photo ?
    De quelle couleur est le chat sur l'image ?
    Décris les deux images
"""
NAMES_NO_PICTURE = """
    How do I take better pictures?
    Do you like photos?
    What is a photo?
    What's the difference between a photo and a painting?
    Imagine a world without war
    How does image compression work?
    What makes a good photograph?
    I am a photographer
    J'aime les films
    Comment prendre une bonne photo ?
"""


def lines(table: str) -> list[str]:
    return [line.strip() for line in table.strip().splitlines()]


@pytest.mark.parametrize(
    ("focus", "words"),
    [(focus, words) for focus, table in ABOUT_A_PICTURE.items() for words in lines(table)],
)
def test_a_question_about_a_picture_has_its_focus(focus: str | None, words: str) -> None:
    assert focus_of(words) == focus


def test_a_picture_without_words_is_described() -> None:
    assert focus_of("") == focus_of(" \n") == "general"


@pytest.mark.parametrize("words", lines(DRAWING))
def test_these_words_wish_for_a_drawing(words: str) -> None:
    assert wants_drawing(words)


@pytest.mark.parametrize("words", lines(NOT_DRAWING))
def test_these_words_wish_for_no_drawing(words: str) -> None:
    assert not wants_drawing(words)


@pytest.mark.parametrize("words", lines(TRANSCRIPT))
def test_these_words_ask_for_what_was_said(words: str) -> None:
    assert wants_transcript(words)


@pytest.mark.parametrize("words", lines(NO_TRANSCRIPT))
def test_these_words_ask_for_more_than_what_was_said(words: str) -> None:
    assert not wants_transcript(words)


@pytest.mark.parametrize("words", lines(FOLLOW_UP))
def test_these_words_go_on_about_what_was_shown(words: str) -> None:
    assert points_at_something(words)


@pytest.mark.parametrize("words", lines(NO_FOLLOW_UP))
def test_these_words_are_about_something_else(words: str) -> None:
    assert not points_at_something(words)


@pytest.mark.parametrize("words", lines(NAMES_A_PICTURE))
def test_these_words_name_a_picture(words: str) -> None:
    assert names_a_picture(words)


@pytest.mark.parametrize("words", lines(NAMES_NO_PICTURE))
def test_these_words_name_no_picture_of_this_conversation(words: str) -> None:
    assert not names_a_picture(words)


@pytest.mark.parametrize(
    ("words", "index"),
    [
        ("What does the first picture say?", 0),
        ("the 2nd photo", 1),
        ("And the third one?", 2),
        ("Describe picture 2", 1),
        ("image number three", 2),
        ("the last picture", -1),
        ("the previous image", -2),
        ("the first cat picture", 0),
        ("Décris la première image", 0),
        ("la deuxième photo", 1),
        ("l'image précédente", -2),
        ("la dernière photo", -1),
        ("What is the first thing you see in the picture?", None),
        ("Describe the picture first", None),
        ("What is this?", None),
    ],
)
def test_an_order_is_read_only_where_it_counts_pictures(words: str, index: int | None) -> None:
    assert ordinal_of(words) == index


@pytest.mark.parametrize(
    ("words", "many"),
    [
        ("Compare both pictures", True),
        ("Describe all the pictures", True),
        ("What do the two images show?", True),
        ("Compare the photos", True),
        ("Décris les deux images", True),
        ("What is in the picture?", False),
        ("Both are nice", False),
    ],
)
def test_all_the_pictures_are_meant_only_when_said(words: str, many: bool) -> None:
    assert means_many_pictures(words) is many


@pytest.mark.parametrize(
    "words",
    [
        "word " * 20_000,
        "the " * 25_000,
        "What is " * 12_000,
        "Ann Bob " * 12_000,
        "a" * 100_000,
        "how many people are there in " * 3_400,
        "?" * 100_000,
        " " * 100_000,
        "hi " * 33_000,
    ],
)
def test_the_longest_message_is_judged_at_once(words: str) -> None:
    started = time.perf_counter()
    focus_of(words)
    wants_drawing(words)
    wants_transcript(words)
    names_a_picture(words)
    points_at_something(words)
    ordinal_of(words)
    means_many_pictures(words)
    # A pattern that backtracks would take hours; a busy machine takes a second.
    assert time.perf_counter() - started < 30
