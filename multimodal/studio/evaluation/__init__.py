"""What a model knows, in figures with intervals, and the gate: did it learn?

`perplexity.py`, `answers.py` and `comparisons.py` measure a model, `intervals.py` says how far the
figures can be trusted, and `gate.py` judges what was measured before and after.
"""
