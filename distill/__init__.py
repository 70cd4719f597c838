"""The science: methods, models, data, training and evaluation. Imports no ray."""
