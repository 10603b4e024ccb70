"""What computations run on: the device, and several processes under torchrun."""
