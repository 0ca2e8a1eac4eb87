"""Skill of forecasts."""
