"""duckweed beside data parallelism, torchft, hivemind and Flower, on one work: bytes, speed, memory, loss, faults."""
