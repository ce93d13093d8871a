"""Real data sets: find, verify, load. Small sets live in memory as tensors and are indexed on the device."""
