"""Exports a model of a run: safetensors, ONNX and a model card."""
