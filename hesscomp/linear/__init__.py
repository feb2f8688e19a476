"""Fitted generalised linear models: coefficients, statistics, predictions, and their file."""

from hesscomp.linear.hdf5 import load_model, save_model
from hesscomp.linear.model import LinearModel, Predictions

__all__ = ["LinearModel", "Predictions", "load_model", "save_model"]
