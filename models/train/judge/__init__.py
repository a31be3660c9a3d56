"""The small judge, its rubrics, and the pairs that they are measured on."""
