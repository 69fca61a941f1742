"""Why a peer stops, or stops a block. A leaf: whoever raises or catches these needs nothing else."""


class PeerStopped(RuntimeError):
    """The peer cannot go on; the message says whose fault it is."""


class HandedBack(Exception):
    """The block that is being trained is given back, because the volunteer wants the machine."""
