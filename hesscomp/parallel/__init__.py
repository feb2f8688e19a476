"""The MPI world: ranks, reductions, agreement on errors, row ranges, random blocks, threads."""
