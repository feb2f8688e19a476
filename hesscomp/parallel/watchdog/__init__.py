"""What watches for ranks that die or fall silent, so that no rank waits for ever.

`docs/failures.md` explains how the modules work together. Only `collective_timeout` loads MPI.
"""
