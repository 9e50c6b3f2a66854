"""TensorRT engines: machine code for one GPU, built from an ONNX file."""
