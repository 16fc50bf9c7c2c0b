"""From texts to answers: predictions, mask filling, data augmentation."""
