"""Why a peer stops, or gives back a block. This module imports nothing, so that all rooms may use it."""


class PeerStopped(RuntimeError):
    """The peer cannot go on; the message says whose fault it is."""


class HandedBack(Exception):
    """The block that is being trained is given back, because the volunteer wants the machine."""
