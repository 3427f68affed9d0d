"""What a person sees: progress on stderr (progress.py), tables and summaries on stdout (render.py)."""
