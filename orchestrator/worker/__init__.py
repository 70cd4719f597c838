"""What runs inside Ray Train workers: the training of a cohort. Imports torch."""
