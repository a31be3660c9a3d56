"""The small image generator."""
