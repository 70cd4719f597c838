"""From a run to a model in the hand: safetensors, ONNX and a model card."""
