"""Data: sources, the index pipeline, host augmentation and in-step mixing."""
