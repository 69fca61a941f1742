"""A campaign from its folder and ledger to its report: the part that touches clock and disk."""
