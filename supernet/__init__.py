"""The space of networks, the binarised supernet, the search and the derived network."""
