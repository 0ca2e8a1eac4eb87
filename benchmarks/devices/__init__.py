"""Losses, communication and scaling of a training on several devices: `python -m benchmarks.devices`."""
