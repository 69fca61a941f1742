"""The loop that improves its own recipe, and what its figures are worth.

Rooms, and modules beside them; each imports only from those to the right of it:

    campaign > workers > trials, propose > decide > space, statistics > trial_spec, folder, budget
"""
