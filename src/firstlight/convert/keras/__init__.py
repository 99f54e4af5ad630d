"""Keras 3 and KerasHub: import, and export as a ``.keras`` file."""
