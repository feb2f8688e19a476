"""Losses over sharded data sets."""
