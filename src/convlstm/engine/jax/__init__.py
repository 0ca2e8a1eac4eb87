"""The recurrence in JAX."""
