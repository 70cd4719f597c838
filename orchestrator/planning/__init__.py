"""From a sweep file to a plan. Pure: no Ray, no torch."""
