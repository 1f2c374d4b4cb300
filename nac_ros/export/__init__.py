"""Bundles: policy, tokenizer and robot exported with ONNX graphs and hashes."""
