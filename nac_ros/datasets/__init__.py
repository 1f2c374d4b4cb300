"""Datasets on disk: reading, writing, checking and converting, without simulator and torch."""
