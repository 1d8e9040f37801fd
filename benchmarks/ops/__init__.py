"""Each op's time, floor, error and memory, ours beside plain PyTorch and beside its peers."""
