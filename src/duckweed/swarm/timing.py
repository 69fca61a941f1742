"""How long peers and coordinator wait for each other, in seconds: all of it in one place."""

BEAT = 1.0  # between signs of life of a peer
POLL = 5.0  # after which a question is answered with "wait", and what is waited for
PATIENCE = 20.0  # until an answer must begin; above POLL, for a coordinator that merges meanwhile
GOODBYE = 3.0  # for a peer that goes, until it is heard
RETRY = 1.0  # between attempts to reach a coordinator that went away; no end to them
REMIND = 60.0  # between words to the user about it
SILENCE = (
    6.0,
    20.0,
)  # without a sign of life, at least and at most, until a peer is not waited for
AWAY = 2.0  # the coordinator itself did not run for so long: the silence is its own


def silence(gap: float) -> float:
    """How long a peer may be silent. gap: its longest silence of late. A busy machine delays signs
    of life; a peer whose signs come late is given four times its usual delay."""
    least, most = SILENCE
    return min(most, max(least, 4 * gap))
