"""Side-by-side measurements of nutproxy and its peers: `python -m bench`."""
