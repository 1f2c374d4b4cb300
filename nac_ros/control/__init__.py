"""The safety guard: checks of action chunks, trajectory generation, watchdog, call log; numpy alone."""
