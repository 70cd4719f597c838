"""Methods, models, data, training and evaluation of knowledge distillation. Imports no ray."""
