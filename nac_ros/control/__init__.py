"""The safety guard: checks, trajectory generation, watchdog, call log; numpy alone."""
