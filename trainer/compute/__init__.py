"""What computations run on: the device, ONNX Runtime, and several processes under torchrun."""
