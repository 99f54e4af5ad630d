"""Presets: published sizes, sizes for small machines, and whole recipes."""
