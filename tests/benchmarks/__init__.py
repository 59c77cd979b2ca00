"""Tests of the parts of benchmarks/ that figures depend on; no measuring."""
