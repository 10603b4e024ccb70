"""Hardware of a training run: the device, and the processes that torchrun starts."""
