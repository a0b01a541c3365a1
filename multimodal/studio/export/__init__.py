"""Text models as files for other programs, each loaded back and compared with its source.

`export.py` is the one function of the page and of the command line; a process of its own
(`recipe.py`) loads the source (`source.py`), measures it (`reference.py`), writes what was asked
for (a format a file, listed in `formats.py`), loads every file back, and compares
(`certificate.py`).
"""
