"""One file a verb: the settings of a run and the function that wires rooms together, without mathematics or printing."""
