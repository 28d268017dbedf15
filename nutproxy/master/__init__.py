"""The master: files, names, the log and the workers. It moves no data of clients."""
