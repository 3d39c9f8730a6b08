"""What every layer stands on: kernels, collectives, chunks and devices. It alone names a backend, beside
training/steps.py."""
