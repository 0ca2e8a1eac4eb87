"""The recurrence, one subpackage per array library with the same function names."""
