"""A model folder in other forms and places: as ONNX, as OpenVINO, on a Hugging Face hub, in MLflow."""
