"""Policies and tokenizers measured in one process: rollouts, baselines, benchmarks, log replay."""
