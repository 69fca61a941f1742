"""Held-out loss against bytes on the wire: data parallelism and duckweed, same model, data, tokens."""
