"""What a batch asks of the student: masking, labels, metric."""
