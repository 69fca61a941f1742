"""Speed and size of the wire (docs/wire.md)."""
