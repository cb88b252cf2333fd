"""ResQ: residual quantization for video perception."""
