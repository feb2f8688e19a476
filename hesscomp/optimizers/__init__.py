"""Newton-type optimizers."""
