"""Kernels, collectives, chunks and devices. Only this package and training/steps.py name a backend."""
