"""From a sweep file to a plan: settings, checks, studies, trials, cost estimate. Imports neither Ray nor torch."""
