"""The commands: one module per verb, which wires packages together, without mathematics or printing."""
