"""What the library costs: `python -m benchmarks.<name>` prints its measurements as JSON."""
