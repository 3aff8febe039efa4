"""Plain data without torch: records, distributions, moments, findings, results."""
