"""What all suites share: workers, proof before timing, clocks, figures, reports."""
