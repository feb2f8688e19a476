"""What one run needs around the numerics: cost ledger, atomic files, progress."""
