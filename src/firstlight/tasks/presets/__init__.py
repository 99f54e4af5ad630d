"""Recipes of fine-tuning, as TOML."""
