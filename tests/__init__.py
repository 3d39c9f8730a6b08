"""Tests: the library's tree again, `*_test.py`. `python -m tests` runs them all."""
