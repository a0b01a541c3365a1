"""What a card really does, found out on the card itself before anything relies on it.

`probes.py` measures, and so does `backends/probes.py` by models; `process.py` runs the probes in
processes of their own, since a kernel that fails may end the process it runs in, and `record.py` is
what comes out and is kept.
"""
