"""The recurrence in TensorFlow."""
