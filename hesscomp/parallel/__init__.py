"""The MPI world: ranks, reductions, agreement on errors, row ranges, random blocks, threads."""

TIMEOUT = 1800.0  # seconds that a rank waits for others: one that compiles or reads is waited for
