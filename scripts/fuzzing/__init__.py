"""What `scripts/fuzz.py` is made of: readers with valid files, mutations, and a judge."""
