"""A conversation in speech without a hand: who speaks when, what was said, and what is only noise.

`turn_detection` follows the sound of a microphone and tells where somebody speaks; `echoes` knows
the program's own voice again; `listener` makes turns of both, with the model that hears.
"""
