"""Messages: their bytes, their queues, and how requests and replies move through them."""
