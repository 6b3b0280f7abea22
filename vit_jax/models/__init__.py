"""The Vision Transformer: layers, attention, the stack of blocks, positions, sizes."""
