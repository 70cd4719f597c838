"""What a person sees: progress, the closing summary, errors, exit codes."""
