"""Training loops for tokenizers and policies, resumable and seeded."""
