"""The recurrence in PyTorch."""
