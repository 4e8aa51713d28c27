"""Where models come from: what a configuration's `path` means, and GGUF files as folders that transformers loads."""
