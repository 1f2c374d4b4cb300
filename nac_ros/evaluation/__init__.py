"""Judged trials: intervals, pictures and the report of a run."""
