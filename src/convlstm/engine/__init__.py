"""The recurrence in each array library: pure functions on arrays, the same in the same order in each file."""
