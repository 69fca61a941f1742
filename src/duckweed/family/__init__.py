"""A family: runs that part after a common start, each of which trains on the text that is routed to it
(docs/paths.md)."""
