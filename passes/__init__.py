"""The compiler passes of conet-fx: trace, label, propagate, rewrite, verify."""
