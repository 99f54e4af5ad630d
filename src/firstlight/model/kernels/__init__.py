"""Custom CPU kernels with hand-written backward passes: linear layers, causal attention, RMSNorm and RoPE."""
