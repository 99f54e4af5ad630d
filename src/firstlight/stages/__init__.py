"""One file a verb: its settings and the function that wires rooms together, without mathematics or printing."""
