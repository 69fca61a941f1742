"""A site: several processes, each on a device of its own, that train together as one peer.

Rank 0 is the peer: it talks with the run, and its learner (`leader`) tells the others, rank by rank, what to do. They
are `member`s: they know nothing of the run but what rank 0 tells them, and need neither its text nor its invitation's
secret. Each takes its share of the sequences of a step. Where the model fits into the memory of each (`replicated`)
gradients are added up over the ranks; where it does not (`sharded`) it is shared out too, by torch's FSDP2.
"""
