"""Offline training of tokenizers and policies, resumable and seeded."""
