"""Reading, writing, checking and converting demonstrations on disk."""
