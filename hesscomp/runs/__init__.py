"""One run's record: history, reports, checkpoints and the journal of its products."""
