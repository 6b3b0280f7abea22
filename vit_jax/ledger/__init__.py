"""What each recipe of configs/ is for: published figures, ours, and what it costs."""
