"""Facts about models, in TOML: cards, profiles, and where weights come from."""
