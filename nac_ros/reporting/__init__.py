"""Plots, videos and HTML pages from arrays and result files."""
