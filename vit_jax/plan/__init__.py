"""What a run needs and what hardware offers, worked out before anything is started."""
