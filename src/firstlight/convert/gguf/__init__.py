"""GGUF, llama.cpp's file format: import and export."""
