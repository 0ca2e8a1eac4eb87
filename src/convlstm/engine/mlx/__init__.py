"""The recurrence in MLX."""
