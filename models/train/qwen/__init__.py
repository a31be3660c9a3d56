"""The small image editor."""
