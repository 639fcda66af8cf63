"""Train spiking networks with surrogate gradients. Layers take and return [T, B, C, H, W]."""
