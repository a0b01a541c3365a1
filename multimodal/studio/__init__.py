"""Teach a model on one's own data, measure whether it learned, and chat with it.

A job is a process of its own (`process.py`) that the program starts, watches and ends
(`jobs.py`); what it is to do is a `JobSettings` (`settings.py`), what it says meanwhile are records
(`records.py`) in its folder (`folder.py`). The process runs one recipe (`recipes/`), which is built
on the trainers of TRL and transformers. Nothing outside `recipes/`, `evaluation/` and `data/`
imports those.
"""
