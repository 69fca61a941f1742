"""Loss for tokens and for bytes in short runs: which schedule of rounds and codes `duckweed train` should have."""
