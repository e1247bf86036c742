"""What is drawn of a live model: feature maps and attention of one fixed example, weights, and units that are dead."""
