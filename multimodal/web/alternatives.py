"""Which models could answer the newest message instead of those that did."""

from __future__ import annotations

from multimodal.build import Program
from multimodal.messages import Conversation, Route, Task

MAX_ALTERNATIVES = 4


def alternatives(program: Program, conversation: Conversation) -> list[str]:
    """The names of the cards worth offering, those that answer by themselves first; the model
    menu has all. A model is only offered where its answer could be of the same kind."""
    last = conversation.messages[-1] if conversation.messages else None
    if last is None or last.outcome is None or not last.outcome.routes:
        return []
    routes = last.outcome.routes
    used = {step.card for route in routes for step in route.steps[-1:]}
    tasks = _tasks(routes)
    able = [card.name for card in program.cards if card.task in tasks and card.name not in used]
    usual = program.defaults.names
    return sorted(able, key=lambda name: name not in usual)[:MAX_ALTERNATIVES]


def _tasks(routes: tuple[Route, ...]) -> set[Task]:
    """What a model would have to do to give another answer."""
    steps = [step for route in routes for step in route.steps]
    if not steps:
        return set()
    if routes[-1].answer is not None:  # the words of a recording are the answer
        return {Task.SPEECH} if steps[-1].task is Task.SPEECH else set()
    if steps[-1].task in {Task.DRAW, Task.SPEECH}:
        return {steps[-1].task}
    has_looked = any(step.task is Task.IMAGE for step in steps)
    return {Task.TEXT, Task.IMAGE} if has_looked else {Task.TEXT}
