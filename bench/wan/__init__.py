"""A network of hosts on one machine: namespaces, an emulator between them, NATs, a cutting knife."""
