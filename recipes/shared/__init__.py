"""Modules that the recipes share: the command line, the folder of a run, data sets and fitting."""
