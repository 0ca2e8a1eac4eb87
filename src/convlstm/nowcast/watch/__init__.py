"""Forecast whenever a frame arrives, with one model that stays in memory."""
