"""Inference on texts: predictions, mask filling and data augmentation."""
