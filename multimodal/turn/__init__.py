"""One turn: what is asked for, which models answer, what each is asked, and how that flows."""
