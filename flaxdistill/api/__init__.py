"""What Python users call: load, distill, Run and Model."""
