"""CPU kernels with custom backward passes: linear layers, causal attention, RMSNorm and rotary positions."""
