"""The experiments of the CONet paper, each beside the published figure and rivals of as many parameters."""
