"""Kernel kinds for GPUs: loops are a grid of threads, and `tvm_latency.device_code` has what becomes of them."""
