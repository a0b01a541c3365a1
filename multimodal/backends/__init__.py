"""Engines: each family of models is loaded here, asked, and answers with a stream of events."""
