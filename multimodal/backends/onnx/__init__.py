"""Models in ONNX, on ONNX Runtime: text models, picture classifiers and Whisper, in the folders
that `multimodal export --to onnx` writes.

They compute on the CPU also beside a graphics card, since onnxruntime comes without CUDA.
"""
