"""Figures and run reports, drawn from what a run left in its work directory."""
