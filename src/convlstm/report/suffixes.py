"""Ends of the names of animations, which are known without the libraries that draw."""

ANIMATION_SUFFIXES = (".gif", ".mp4")
