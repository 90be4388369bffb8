"""Flags -> values: what the commands share before and around their work."""
