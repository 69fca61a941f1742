"""The tests, intervals and laws behind every figure; they know nothing of training."""
