"""results.h5, summaries and plots."""
