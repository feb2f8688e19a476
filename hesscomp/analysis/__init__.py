"""Plots and reports of factors and runs; loads neither TensorFlow nor MPI."""
