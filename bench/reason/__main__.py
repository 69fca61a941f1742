"""`python -m bench.reason FOLDER`: bench.reason.reasoner."""

from bench.reason.reasoner import main

main()
