"""What a job is taught: read, checked and split (`prepare.py`), tokenised (`masks.py`), and shown
(`preview.py`).

`files.py`, `json_files.py`, `tables.py` and `hub.py` read records, each with its file and line;
`columns.py` says what a column is; `samples.py` makes rows of records as TRL's trainers read them;
`splits.py` holds some of them out.
"""
