"""The one door from training to a robot: bundles and their ONNX graphs."""
