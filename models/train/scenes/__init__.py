"""The world of the small models: flat scenes, their captions, and files of labelled pairs."""
