"""Training with PyTorch: the only part of textok that imports torch (the extra `train`)."""
