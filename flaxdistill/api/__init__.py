"""The Python API: load, distill, Run and Model."""
